/*
 * room - see room.h. Systems: Linux, macOS and the BSDs.
 *
 * Two connections: A adds entries to the stream, B reads them. (A client that waits in
 * XREAD cannot add anything meanwhile.)
 *
 * Exactly one entry is in flight at a time: added, and not acknowledged. If A is lost, it
 * is added again with the same n, and whoever has seen it drops the copy. What is said
 * meanwhile collects and is the next entry: under load entries get larger, not more.
 *
 * To join is to add an empty entry, the marker, and to read the stream from its
 * beginning. Before the marker nothing is delivered, but the last n of each origin is
 * noted. Behind it, every n has to be its origin's next one.
 */
#include "room.h"

#include "entry.h"
#include "log.h"
#include "origins.h"
#include "redis.h"
#include "timeouts.h"
#include "utf8.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COMMAND_MAX = ENTRY_MAX + 8192 }; /* bytes: XADD, with the room's name */
enum { CHECK_MAX = 4096 }; /* bytes of an entry that is cheap to read once more */
enum { SILENCE_MAX_MS = 5 * 1000 }; /* then an empty entry shows that all is well */
enum { JOIN_MAX_MS = 10 * 1000 };
enum { PAUSE_MS = 6 * 1000 };   /* without a turn: this server, or its machine, slept */
enum { REPEAT_MS = 60 * 1000 }; /* between two lines in the log on the same trouble */

struct room {
    struct redis_server server;
    struct redis a, b;
    struct feed *feed;
    room_missed *on_missed;
    char name[UTF8_VISIBLE_MAX * URL_MAX + 1]; /* printable */
    bool joined;                               /* once, at the start */
    bool well; /* what is added comes back; if not, the log has said so */
    char trouble[REDIS_REASON_MAX]; /* what has kept us from joining so far */
    const int64_t *clock;           /* the caller's, */
    int64_t now, opened;            /* and what it said last, and at first */
    int64_t told;                   /* when the log last said what is wrong, */
    int64_t told_form;              /* and that an entry is not of our form */

    /* A. The entry in flight is the first bytes of what waits. */
    char origin[ORIGIN_LEN + 1];
    bool in_flight;
    bool trim_due; /* Redis is out of memory */
    uint64_t n;    /* of the entry in flight, or else of the next one */
    size_t flight_len, flight_messages;
    char *waiting;
    size_t waiting_room, waiting_len, waiting_messages;
    uint64_t said;    /* bytes, since the start */
    int64_t add_at;   /* after an error that may pass: not before */
    int64_t added_at; /* when an entry was last acknowledged; 0: show that all is well */

    /* B. */
    char cursor_id[ENTRY_ID_MAX];
    bool check_due, checking; /* whether the cursor's entry is still there */
    bool live;                /* the marker has come: what comes now is delivered */
    bool marker_due;          /* the next entry is to be the marker */
    struct slice cursor;      /* the ID of the last entry that has been read */
    uint64_t marker;          /* its n, and */
    uint64_t marker_said;     /* how many of the bytes said are before it */
    uint64_t seen;            /* our own last n that has come, + 1 */
    uint64_t heard;           /* how many of the bytes said have come */
    uint64_t asked;           /* when we last did, our own entries below it were there */
    int64_t read_at;          /* after an error that may pass: not before */
    struct entry entry;
    struct origins *origins;
    struct trail trail;
};

static struct slice slice_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

/* ---- What the log says ---- */

/* How many bytes of a printable text to show: at most max, and no half character. */
static int shown_len(const char *text, int max)
{
    int len = 0;

    while (len < max && text[len] != '\0')
        len++;
    while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--;
    return len;
}

/*
 * The room cannot be used. At the start that ends the program if it is hopeless; later it
 * is logged once, and then once a minute.
 */
static void trouble_tell(struct room *room, const char *reason, bool hopeless)
{
    const struct url *url = &room->server.url;

    if (!room->joined && hopeless)
        errx(1, "room %s at %s:%s: %s", room->name, url->host, url->port, reason);
    if (!room->joined)
        snprintf(room->trouble, sizeof room->trouble, "%s", reason);
    if (!room->joined || (!room->well && room->now < room->told + REPEAT_MS))
        return;
    log_event("%s the room (%.*s); %zu message%s", room->well ? "lost" : "still without",
              shown_len(reason, 100), reason, room->waiting_messages,
              room->waiting_messages == 1 ? " waits" : "s wait");
    room->well = false;
    room->told = room->now;
    room->added_at = 0; /* an entry is to show when all is well again */
}

/* Does what we add come back? Then we are in the room, for the first time or again. */
static void wellness_check(struct room *room)
{
    const struct url *url = &room->server.url;

    if (room->well || !room->live || room->in_flight || room->added_at == 0 ||
        room->seen != room->n)
        return;
    if (room->joined)
        log_event("rejoined");
    else
        log_event("joined room %.*s at %.80s:%s", shown_len(room->name, 80), room->name,
                  url->host, url->port);
    room->well = room->joined = true;
}

/* ---- A hole ---- */

/* Reads from the beginning, up to a new marker. */
static void reading_begin(struct room *room)
{
    room->cursor = slice_of("0-0");
    room->live = false;
    room->marker_due = true;
    room->marker = UINT64_MAX; /* none yet */
    room->check_due = true;
    origins_clear(room->origins);
}

/* Something has been missed, or may have been: tells it, and begins anew. */
static void hole_found(struct room *room, const char *reason)
{
    reading_begin(room);
    room->well = false;
    room->told = room->now;
    redis_lose(&room->b, slice_of(reason), room->now);
    room->on_missed(reason);
}

/* ---- Errors ---- */

enum remedy { WAIT, TRIM, DIAL, MOVE, HOPELESS };

/* An error begins with a name in capitals. */
static enum remedy remedy_of(struct slice error)
{
    static const struct {
        const char *name;
        enum remedy remedy;
    } known[] = {{"OOM", TRIM},         {"LOADING", WAIT},    {"MISCONF", WAIT},
                 {"CLUSTERDOWN", WAIT}, {"NOREPLICAS", WAIT}, {"BUSY", WAIT},
                 {"MASTERDOWN", WAIT},  {"TRYAGAIN", WAIT},   {"READONLY", DIAL},
                 {"UNBLOCKED", DIAL},   {"MOVED", MOVE}};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t len = strlen(known[i].name);
        if (error.len > len && error.bytes[len] == ' ' &&
            memcmp(error.bytes, known[i].name, len) == 0)
            return known[i].remedy;
    }
    return HOPELESS;
}

/* Gives a connection up for an error that it was answered with. */
static void error_lose(struct room *room, struct redis *redis, struct slice text,
                       bool hopeless)
{
    redis_lose(redis, text, room->now);
    redis->refused = hopeless;
}

/* Waits with the connection open. */
static void error_wait(struct room *room, struct redis *redis, struct slice text)
{
    char reason[REDIS_REASON_MAX];
    size_t len = text.len < 128 ? text.len : 128;

    *(redis == &room->a ? &room->add_at : &room->read_at) =
        room->now + redis_pause(redis);
    reason[utf8_visible(reason, text.bytes, len)] = '\0';
    trouble_tell(room, reason, false);
}

static void on_error(struct room *room, struct redis *redis, struct slice text)
{
    switch (remedy_of(text)) {
    case TRIM:
        room->trim_due = redis == &room->a; /* at once, and then wait */
        error_wait(room, redis, text);
        break;
    case WAIT:
        if (redis == &room->b && room->checking) /* what follows must not go unchecked */
            error_lose(room, redis, text, false);
        else
            error_wait(room, redis, text);
        break;
    case MOVE:
        if (redis_move(&room->server, text)) {
            error_lose(room, &room->a, text, false);
            error_lose(room, &room->b, text, false);
            break;
        }
        /* fall through */
    case HOPELESS:
        error_lose(room, redis, text, true);
        break;
    case DIAL:
        redis_elsewhere(redis);
        error_lose(room, redis, text, false);
    }
}

/* ---- A: adding ---- */

/* The entry in flight is in the stream. */
static void on_acknowledged(struct room *room)
{
    room->n++;
    room->in_flight = false;
    room->waiting_len -= room->flight_len;
    if (room->flight_len > 0)
        memmove(room->waiting, room->waiting + room->flight_len, room->waiting_len);
    room->waiting_messages -= room->flight_messages;
    room->added_at = room->now;
}

static void on_a_item(struct room *room, const struct resp_item *item)
{
    if (item->type == RESP_ERROR) {
        on_error(room, &room->a, item->text);
    } else if (item->type == RESP_BULK && item->depth == 0 && room->in_flight) {
        redis_is_well(&room->a);
        on_acknowledged(room);
    } else if (item->type != RESP_INTEGER || item->depth > 0) { /* XTRIM's reply */
        redis_lose(&room->a, slice_of("an answer that fits no question"), room->now);
    }
}

/* With one of these an entry begins: the marker, what was said, or a sign of life. */
static bool flight_begin(struct room *room)
{
    if (room->marker_due) {
        room->marker = room->n;
        room->marker_said = room->said - room->waiting_len;
        room->marker_due = false;
        room->flight_len = 0;
    } else if (room->waiting_len > 0) {
        room->flight_len = room->waiting_len < ENTRY_MAX ? room->waiting_len : ENTRY_MAX;
        while (room->waiting[room->flight_len - 1] != '\n')
            room->flight_len--; /* whole messages */
    } else if (room->now >= room->added_at + SILENCE_MAX_MS || room->added_at == 0) {
        room->flight_len = 0;
    } else {
        return false;
    }
    room->flight_messages = 0;
    for (size_t i = 0; i < room->flight_len; i++)
        room->flight_messages += room->waiting[i] == '\n';
    room->in_flight = true;
    return true;
}

static void flight_send(struct room *room)
{
    char most[24], n[24];
    const struct slice words[] = {
        {"XADD", 4},
        slice_of(room->server.url.room),
        {"MAXLEN", 6},
        {"~", 1},
        {most, (size_t)sprintf(most, "%zu", trail_count(&room->trail))},
        {"*", 1},
        {"o", 1},
        {room->origin, ORIGIN_LEN},
        {"n", 1},
        {n, (size_t)sprintf(n, "%" PRIu64, room->n)},
        {"d", 1},
        {room->waiting, room->flight_len}};

    redis_command(&room->a, words, sizeof words / sizeof words[0], room->now);
}

/* Under maxmemory XADD is refused before it trims. */
static void trim_send(struct room *room)
{
    char most[24];
    const struct slice words[] = {
        {"XTRIM", 5},
        slice_of(room->server.url.room),
        {"MAXLEN", 6},
        {"~", 1},
        {most, (size_t)sprintf(most, "%zu", trail_count(&room->trail) / 2)}};

    redis_command(&room->a, words, sizeof words / sizeof words[0], room->now);
    room->trim_due = false;
}

/* Adds what is to be added next, if A is free for it. */
static void a_turn(struct room *room)
{
    if (room->a.state != REDIS_READY || room->a.awaited > 0)
        return;
    if (room->trim_due)
        trim_send(room);
    else if (room->now >= room->add_at && (room->in_flight || flight_begin(room)))
        flight_send(room);
    redis_send(&room->a, room->now);
}

static void on_a_lost(struct room *room)
{
    if (room->in_flight && room->seen > room->n)
        on_acknowledged(room); /* it has come back, and no reply will come any more */
    room->add_at = 0;
    room->trim_due = false;
    trouble_tell(room, room->a.reason, room->a.refused);
}

/* ---- B: reading ---- */

/* Has this n its place here? Anything else is a hole, seen from its far side. */
static bool n_fits(const struct entry *entry, const struct origin *origin)
{
    if (origin != NULL)
        return entry->n == origin->last + 1;
    return entry->n == 0 || entry->messages.len == 0; /* one that joins, or joins again */
}

static void on_own_entry(struct room *room, const struct entry *entry)
{
    if (entry->n >= room->seen)
        room->seen = entry->n + 1; /* not so while the stream is read once more */
    if (room->live) {
        room->heard += entry->messages.len;
    } else if (entry->n == room->marker) {
        room->live = true;
        room->heard = room->marker_said;
    } else if (room->marker != UINT64_MAX && entry->n > room->marker) {
        hole_found(room, "the marker is missing");
    }
    if (room->in_flight && entry->n == room->n && room->a.state != REDIS_READY)
        on_acknowledged(room);
}

/* Writes them to the feed. Returns 0; -1 if there is no memory for them. */
static int messages_deliver(struct room *room, struct slice messages)
{
    while (messages.len > 0) {
        size_t len = messages.len < FEED_CHUNK ? messages.len : FEED_CHUNK;
        if (feed_reserve(room->feed, len) < 0)
            return -1;
        feed_append(room->feed, messages.bytes, len);
        messages.bytes += len;
        messages.len -= len;
    }
    return 0;
}

/* An entry of our form. */
static void on_entry(struct room *room, const struct entry *entry)
{
    struct origin *origin = origins_find(room->origins, entry->origin);
    bool live = room->live;

    if (origin != NULL && entry->n <= origin->last)
        return; /* a copy: somebody did not get its acknowledgement */
    if (live && !n_fits(entry, origin)) {
        hole_found(room, "an entry of another server is missing");
        return;
    }
    if (origin == NULL)
        origin = origins_add(room->origins, entry->origin);
    origin->last = entry->n;
    if (live && messages_deliver(room, entry->messages) < 0) {
        hole_found(room, "out of memory");
        return;
    }
    if (memcmp(entry->origin, room->origin, ORIGIN_LEN) == 0)
        on_own_entry(room, entry);
}

static void on_foreign_entry(struct room *room, const struct entry *entry)
{
    char id[UTF8_VISIBLE_MAX * ENTRY_ID_MAX + 1];

    if (room->told_form != 0 && room->now < room->told_form + REPEAT_MS)
        return;
    room->told_form = room->now;
    id[utf8_visible(id, entry->id, entry->id_len)] = '\0';
    log_event("skipped entry %s of the room: it is not of our form", id);
}

static void cursor_move(struct room *room, const struct entry *entry)
{
    memcpy(room->cursor_id, entry->id, entry->id_len);
    room->cursor = (struct slice){room->cursor_id, entry->id_len};
    room->check_due = entry->len <= CHECK_MAX;
    trail_add(&room->trail, entry->len);
}

/* Of XRANGE's reply it only counts whether it is empty. */
static void on_check_item(struct room *room, const struct resp_item *item)
{
    if (item->last)
        room->checking = false;
    if (item->depth == 0 && item->type != RESP_ARRAY)
        redis_lose(&room->b, slice_of("an answer that fits no question"), room->now);
    else if (item->depth == 0 && item->number == 0 && room->live)
        hole_found(room, "the stream does not go back to where we were");
}

/* Nil: XREAD has waited in vain, perhaps behind the end of a stream that was rewound. */
static void on_b_item(struct room *room, const struct resp_item *item)
{
    if (item->type == RESP_ERROR) {
        on_error(room, &room->b, item->text);
    } else if (room->checking) {
        on_check_item(room, item);
    } else if (item->depth == 0 && item->type != RESP_ARRAY && item->type != RESP_NIL) {
        redis_lose(&room->b, slice_of("an answer that fits no question"), room->now);
    } else if (item->depth == 0 && item->type == RESP_NIL && room->seen < room->asked) {
        hole_found(room, "what we added is not there");
    } else if (entry_take(&room->entry, item)) {
        cursor_move(room, &room->entry);
        if (room->entry.ours)
            on_entry(room, &room->entry);
        else
            on_foreign_entry(room, &room->entry);
    }
    if (item->last && room->b.state == REDIS_READY && item->type != RESP_ERROR)
        redis_is_well(&room->b);
}

static void check_send(struct room *room)
{
    const struct slice words[] = {
        {"XRANGE", 6}, slice_of(room->server.url.room), room->cursor, room->cursor};

    redis_command(&room->b, words, sizeof words / sizeof words[0], room->now);
    room->checking = true;
}

static void read_send(struct room *room)
{
    const struct slice words[] = {{"XREAD", 5},
                                  {"COUNT", 5},
                                  slice_of(room->live ? "100" : "1000"),
                                  {"BLOCK", 5},
                                  {"5000", 4},
                                  {"STREAMS", 7},
                                  slice_of(room->server.url.room),
                                  room->cursor};

    room->asked = room->n;
    redis_command(&room->b, words, sizeof words / sizeof words[0], room->now);
}

/*
 * Asks for what comes next. XREAD passes over what has been trimmed without a word, so
 * in front of it we ask whether the stream still reaches back to where we are: then
 * nothing behind that has gone, since streams are trimmed from their beginning.
 */
static void b_turn(struct room *room)
{
    if (room->b.state != REDIS_READY || room->b.awaited > 0 || room->now < room->read_at)
        return;
    if (room->check_due)
        check_send(room);
    if (room->b.state == REDIS_READY)
        read_send(room);
    redis_send(&room->b, room->now); /* both at once */
}

static void on_b_lost(struct room *room)
{
    room->checking = false;
    room->check_due = true;
    room->read_at = 0;
    trouble_tell(room, room->b.reason, room->b.refused);
}

/* ---- Both ---- */

/*
 * Notes what time it is. If this server has slept, nobody else can be blamed for the
 * time, and there is no knowing what it has missed.
 */
static void clock_read(struct room *room)
{
    int64_t now = *room->clock;

    if (now > room->now + PAUSE_MS) {
        room->a.heard = room->b.heard = now;
        room->check_due = true;
    }
    room->now = now;
}

/* Why has the room not been joined in time? */
static const char *delay_of(const struct room *room)
{
    if (room->trouble[0] != '\0')
        return room->trouble;
    return room->cursor.bytes == room->cursor_id ? "its stream is not read within 10 s"
                                                 : "no answer for 10 s";
}

void room_turn(struct room *room)
{
    if (room == NULL)
        return;
    clock_read(room);
    redis_turn(&room->a, room->now);
    redis_turn(&room->b, room->now);
    a_turn(room);
    b_turn(room);
    if (room->a.lost)
        on_a_lost(room);
    if (room->b.lost)
        on_b_lost(room);
    room->a.lost = room->b.lost = false;
    if (!room->joined && room->now >= room->opened + JOIN_MAX_MS)
        trouble_tell(room, delay_of(room), true);
    wellness_check(room);
}

int64_t room_next(const struct room *room)
{
    int64_t next;

    if (room == NULL)
        return INT64_MAX;
    next = room->now + SILENCE_MAX_MS; /* so a longer sleep was not our own */
    next = sooner(next, redis_deadline(&room->a));
    next = sooner(next, redis_deadline(&room->b));
    if (room->add_at > room->now)
        next = sooner(next, room->add_at);
    if (room->read_at > room->now)
        next = sooner(next, room->read_at);
    if (room->added_at + SILENCE_MAX_MS > room->now)
        next = sooner(next, room->added_at + SILENCE_MAX_MS);
    return room->joined ? next : sooner(next, room->opened + JOIN_MAX_MS);
}

/* ---- The loop ---- */

static void on_a_event(void *owner, int ready)
{
    struct room *room = LIST_OWNER(owner, struct room, a);
    struct resp_item item;

    clock_read(room);
    redis_on_event(&room->a, ready, room->now);
    while (redis_next(&room->a, &item, room->now) > 0)
        on_a_item(room, &item);
}

static void on_b_event(void *owner, int ready)
{
    struct room *room = LIST_OWNER(owner, struct room, b);
    struct resp_item item;

    clock_read(room);
    redis_on_event(&room->b, ready, room->now);
    while (redis_next(&room->b, &item, room->now) > 0)
        on_b_item(room, &item);
}

/* ---- Joining, leaving, speaking ---- */

/* 128 random bits, in hex. */
static void origin_make(char origin[ORIGIN_LEN + 1])
{
    unsigned char bytes[ORIGIN_LEN / 2];
    int fd = open("/dev/urandom", O_RDONLY);

    if (fd < 0)
        err(1, "open /dev/urandom");
    if (read(fd, bytes, sizeof bytes) != sizeof bytes)
        err(1, "read /dev/urandom");
    close(fd);
    for (size_t i = 0; i < sizeof bytes; i++)
        sprintf(origin + 2 * i, "%02x", bytes[i]);
}

struct room *room_open(const struct url *url, int loop, struct feed *feed,
                       room_missed *on_missed, const int64_t *now)
{
    struct room *room;
    const char *error;

    if (url->host[0] == '\0')
        return NULL;
    room = calloc(1, sizeof *room);
    if (room == NULL || (room->origins = origins_open()) == NULL ||
        trail_open(&room->trail) < 0)
        err(1, "malloc");
    room->server.url = *url;
    room->feed = feed;
    room->on_missed = on_missed;
    room->clock = now;
    room->now = room->opened = *now;
    room->name[utf8_visible(room->name, url->room, strlen(url->room))] = '\0';
    if ((error = redis_lookup(&room->server)) != NULL)
        errx(1, "%s: %s", url->host, error);
    if (redis_open(&room->a, &room->server, loop, COMMAND_MAX) < 0 ||
        redis_open(&room->b, &room->server, loop, COMMAND_MAX) < 0)
        err(1, "malloc");
    room->a.watched.on_event = on_a_event;
    room->b.watched.on_event = on_b_event;
    origin_make(room->origin);
    reading_begin(room);
    return room;
}

void room_close(struct room *room)
{
    if (room == NULL)
        return;
    redis_close(&room->a);
    redis_close(&room->b);
    origins_close(room->origins);
    free(room->trail.lens);
    free(room->waiting);
    free(room);
}

bool room_is_joined(const struct room *room)
{
    return room == NULL || room->joined;
}

/* Adds bytes to what waits, for which there is room. */
static void waiting_add(struct room *room, const char *bytes, size_t len)
{
    memcpy(room->waiting + room->waiting_len, bytes, len);
    room->waiting_len += len;
}

int room_say(struct room *room, struct slice sender, struct slice text)
{
    size_t len = sender.len + (sender.len > 0 ? 2 : 0) + text.len + 1;

    if (room->waiting_room - room->waiting_len < len) {
        size_t size = 2 * room->waiting_room + len;
        char *waiting = realloc(room->waiting, size);
        if (waiting == NULL)
            return -1;
        room->waiting = waiting;
        room->waiting_room = size;
    }
    if (sender.len > 0) {
        waiting_add(room, sender.bytes, sender.len);
        waiting_add(room, ": ", 2);
    }
    if (text.len > 0)
        waiting_add(room, text.bytes, text.len);
    waiting_add(room, "\n", 1);
    room->waiting_messages++;
    room->said += len;
    return 0;
}

bool room_is_full(const struct room *room)
{
    return room != NULL && room->waiting_len >= ROOM_WAITING_MAX;
}

uint64_t room_said(const struct room *room)
{
    return room == NULL ? 0 : room->said;
}

uint64_t room_heard(const struct room *room)
{
    return room == NULL ? 0 : room->heard;
}
