/*
 * room_protocol.pml - the protocol of a room (notes/rooms.md), for spin to try in every order
 *
 * Two servers say two messages each through one stream. At any moment, each of these may happen
 * once: a connection A is lost, and what it carried gets lost or arrives late; a connection B is
 * lost; all entries of the stream are trimmed. Time does not pass here: an XREAD has waited long
 * enough when nothing else can happen.
 *
 * What must hold is asserted in deliver() and at the end. room_protocol_test.py runs it; with
 * one of the macros NO_... a rule is left out, and spin has to find what then goes wrong.
 */
#define SERVERS 2
#define MESSAGES 2      /* of each server; number 0 is none: an entry without text */
#define ALL (SERVERS * MESSAGES)
#define STREAM_MAX 26
#define NEVER 255

/* ---- Redis ---- */

byte entry_origin[STREAM_MAX], entry_n[STREAM_MAX], entry_text[STREAM_MAX];
byte first, size;                        /* entries first ... size - 1 are there; the place is the ID */
bool waiting[SERVERS];                  /* an XREAD that blocks */
chan reply[SERVERS] = [1] of { byte };  /* an entry, for B */
chan request[SERVERS] = [2] of { byte, byte, byte };    /* XADD: n, text, connection */
chan acknowledgement[SERVERS] = [4] of { byte };        /* which connection it comes on */

byte a_losses, b_losses, trims;         /* still to come */

inline append(origin, n, text) {
    assert(size < STREAM_MAX);
    entry_origin[size] = origin; entry_n[size] = n; entry_text[size] = text;
    size++;
    if :: waiting[0] -> waiting[0] = false; reply[0]!(size - 1) :: else fi;
    if :: waiting[1] -> waiting[1] = false; reply[1]!(size - 1) :: else fi;
}

active proctype Redis() {
    byte n, text, connection;
end_idle:
    do
    :: atomic { request[0]?n, text, connection -> append(0, n, text);
                acknowledgement[0]!connection }
    :: atomic { request[1]?n, text, connection -> append(1, n, text);
                acknowledgement[1]!connection }
    :: atomic { trims > 0 && size > 0 -> trims--; first = size }
    od
}

/* ---- What the clients see ---- */

byte follower[ALL + 1], leader[ALL + 1];        /* of each message: what came behind and before it */
byte last_heard[SERVERS];                       /* 0: nothing yet, or not since the last gap */
bool heard[SERVERS * (ALL + 1)];                /* ever, by the clients of a server */
bool told[SERVERS];                             /* they were disconnected for a gap */

#define HEARD(server, text) heard[(server) * (ALL + 1) + (text)]

inline deliver(server, text) {
    assert(!HEARD(server, text));          /* each once */
    HEARD(server, text) = true;
    if
    :: last_heard[server] != 0 ->                       /* one order, and no hole in it */
        assert(follower[last_heard[server]] == 0 || follower[last_heard[server]] == text);
        assert(leader[text] == 0 || leader[text] == last_heard[server]);
        follower[last_heard[server]] = text;
        leader[text] = last_heard[server]
    :: else
    fi;
    last_heard[server] = text
}

/* ---- A server ---- */

byte n[SERVERS];                        /* of the entry in flight, or else of the next one */
byte seen[SERVERS];                     /* our own last n that has come, + 1 */
bool live[SERVERS];                     /* the marker has come */
bool done[SERVERS];                     /* its last sign of life is under way */

proctype Server(byte me) {
    byte text = 0, said = 0, connection = 0;
    bool in_flight = false, sent = false, a_up = true;
    byte next = 0;                      /* the cursor, + 1 */
    bool marker_due = true;
    byte marker = NEVER;
    byte known[SERVERS];                /* of each origin its last n, + 1; 0: unknown */
    byte e, origin, en, et, c;
    bool hole = false, drop = false;

end_idle:
    do
    /* A: the next entry is a marker, a message, or in the end a sign of life. */
    :: atomic { !in_flight && marker_due ->
        marker_due = false; marker = n[me]; text = 0; in_flight = true; sent = false }
    :: atomic { !in_flight && !marker_due && said < MESSAGES ->
        said++; text = me * MESSAGES + said; in_flight = true; sent = false }
    :: atomic { !in_flight && !marker_due && said == MESSAGES && !done[me] &&
                a_losses == 0 && b_losses == 0 && trims == 0 ->
        done[me] = true; text = 0; in_flight = true; sent = false }
    :: atomic { in_flight && !sent && a_up && nfull(request[me]) ->
        request[me]!n[me], text, connection; sent = true }
    :: atomic { acknowledgement[me]?c ->
        if
        :: c == connection && in_flight && sent -> in_flight = false; n[me]++
        :: else
        fi;
        c = 0 }
    /* A is lost. What it carried is lost, or comes late. */
    :: atomic { a_losses > 0 ->
        a_losses--; a_up = false; sent = false; connection++;
        if :: nempty(request[me]) -> request[me]?_, _, _ :: true fi;
#ifndef NO_ADDING_AGAIN
        if :: in_flight && seen[me] > n[me] -> in_flight = false; n[me]++ :: else fi
#else
        if :: in_flight -> in_flight = false; n[me]++ :: else fi
#endif
        }
    :: atomic { !a_up -> a_up = true }

    /* B: XRANGE and XREAD, which Redis obeys together. */
    :: atomic { !waiting[me] && empty(reply[me]) ->
        if
#ifndef NO_CHECK
        :: live[me] && next > 0 && next - 1 < first -> hole = true
        :: !(live[me] && next > 0 && next - 1 < first) ->
#else
        :: true ->
#endif
            if :: next < first -> next = first :: else fi;
            if :: next < size -> reply[me]!next :: else -> waiting[me] = true fi
        fi }
    :: atomic { reply[me]?e ->
        origin = entry_origin[e]; en = entry_n[e]; et = entry_text[e];
        next = e + 1;
#ifndef NO_TABLE
        drop = known[origin] > en;
#endif
        if
        :: drop -> drop = false
#ifndef NO_JUMPS
        :: !drop && live[me] && !(known[origin] == en ||
                              (known[origin] == 0 && et == 0)) -> hole = true
        :: !drop && !(live[me] && !(known[origin] == en || (known[origin] == 0 && et == 0))) ->
#else
        :: !drop ->
#endif
            known[origin] = en + 1;
            if :: live[me] && et != 0 -> deliver(me, et) :: else fi;
            if
            :: origin == me ->
                if :: en >= seen[me] -> seen[me] = en + 1 :: else fi;
                if
                :: !live[me] && en == marker -> live[me] = true
#ifndef NO_MARKER_LOST
                :: !live[me] && en != marker && marker != NEVER && en > marker -> hole = true
                :: live[me] || (en != marker && !(marker != NEVER && en > marker))
#else
                :: live[me] || en != marker
#endif
                fi;
                if :: in_flight && en == n[me] && !a_up -> in_flight = false; n[me]++ :: else fi
            :: else
            fi
        fi;
        e = 0; origin = 0; en = 0; et = 0 }
    :: atomic { b_losses > 0 ->
        b_losses--; waiting[me] = false;
        if :: reply[me]?_ :: empty(reply[me]) fi }

    /* What was added does not come: XREAD has waited in vain, and says so. */
    :: atomic { timeout && waiting[me] && !in_flight && !marker_due && seen[me] < n[me] ->
        hole = true }

    /* A hole: the clients are told, and we begin anew. */
    :: atomic { hole ->
        hole = false; told[me] = true; last_heard[me] = 0;
        live[me] = false; marker_due = true; marker = NEVER; next = 0;
        waiting[me] = false; if :: reply[me]?_ :: empty(reply[me]) fi;
        known[0] = 0; known[1] = 0; done[me] = false }
    od
}

/*
 * When nothing more happens, who was never told of a gap has heard all that its own clients said,
 * and of another server all from some point on: what was said before it joined is history.
 */
active proctype Judge() {
    byte me, other;

    timeout && seen[0] == n[0] && seen[1] == n[1];
    d_step {
        me = 0;
        do
        :: me < SERVERS ->
            other = 1 - me;
            assert(live[me] && done[me]);       /* nobody is stuck */
            assert(told[me] || HEARD(me, me * MESSAGES + 1) && HEARD(me, me * MESSAGES + 2));
            assert(told[me] || !HEARD(me, other * MESSAGES + 1) ||
                   HEARD(me, other * MESSAGES + 2));
            me++
        :: else -> break
        od
    }
}

init {
    atomic {
        if :: a_losses = 1 :: a_losses = 0 fi;
        if :: b_losses = 1 :: b_losses = 0 fi;
        if :: trims = 1 :: trims = 0 fi;
        run Server(0); run Server(1)
    }
}
