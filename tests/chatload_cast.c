/*
 * chatload_cast.c - modes broadcast, latency and slow of the load tester: many deliveries
 *
 * Message m is the one numbered m / senders of sender m % senders; all its bytes follow
 * from these two numbers, so every delivery is compared byte for byte. The senders take
 * turns.
 *
 * A message is on the way from the moment it is handed to the kernel until the last
 * receiver has all of it. At most a window of messages is on the way: message m is not
 * sent before all up to m - window are everywhere. A ring of that many slots holds them.
 *
 * What is checked of every delivery:
 *   - its bytes, and what the dialect puts around them;
 *   - that it is the sender's next one: nothing lost, nothing twice, nothing early;
 *   - where the dialect promises it, that all receivers get all messages in one order;
 *   - that it came within the deadline.
 *
 * Latency is measured open loop: messages are due at fixed times, and a delivery's
 * latency counts from the time its message was due. A server that stalls is not spared
 * the messages that would have been sent meanwhile. In the last millisecond before a
 * message is due the tester spins, since evloop_wait() counts in milliseconds.
 */
#include "../final/evloop.h"
#include "chatload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_MS = 100 }; /* how often deadlines are looked at */
enum { MILLISECOND = 1000000, TICK = TICK_MS * MILLISECOND };
enum { READ_MAX = 64 * 1024 }; /* bytes a recv */
/* A message begins with its two numbers: "00007:000000042:" is message 42 of sender 7. */
enum { SENDER_DIGITS = 5, NUMBER_DIGITS = 9, HEADER = SENDER_DIGITS + NUMBER_DIGITS + 2 };
enum { WRAP_MAX = 128 }; /* what a dialect puts before or behind a message */
enum { FRAME_MAX = WRAP_MAX + BYTES_MAX + WRAP_MAX };

/* A message on the way. */
struct slot {
    uint64_t due;   /* when it was sent, or should have been */
    size_t missing; /* how many receivers lack it */
};

struct member {
    size_t got;       /* messages received */
    size_t tail_size; /* bytes of a message that has not come whole */
};

struct cast {
    struct load *load;
    const struct options *options;
    struct conn *conns; /* members, stalled clients, publishers */
    struct conn *sender_conns;
    struct member *members;
    char *tails;    /* a frame for each member */
    uint32_t *next; /* [member * senders + sender]: the number that is due */

    char send_before[WRAP_MAX], send_after[WRAP_MAX];
    char receive_before[WRAP_MAX], receive_after[WRAP_MAX], receipt[WRAP_MAX];
    size_t frame; /* bytes of a message as it is received */
    size_t body;  /* where in them the message itself begins */

    size_t window;
    struct slot *slots; /* [m % window] */
    char *frames;       /* likewise: what receivers should get */
    size_t *order;      /* [k % window]: which message came k-th */
    size_t ordered;     /* how many have a place in this order */
    size_t sent, done;  /* messages: handed out; received by all, and all before them */

    uint64_t interval;   /* between messages, 0: as fast as the window allows */
    uint64_t start;      /* when the first message of a run is due */
    size_t first;        /* which message that is */
    uint64_t *latencies; /* of deliveries, NULL: not kept */
    size_t latency_count;
    uint64_t sent_late; /* how late the tester itself was, at worst */
    size_t reads;       /* recv calls that brought something */
    char bytes[READ_MAX];
};

/* ---- messages ---- */

/* Writes a number of fixed width and a colon. */
static void number_write(char *text, int width, size_t number)
{
    text[width] = ':';
    while (width-- > 0) {
        text[width] = (char)('0' + number % 10);
        number /= 10;
    }
}

/* Writes message m as receivers should get it. */
static void frame_write(const struct cast *cast, size_t m, char *frame)
{
    size_t senders = cast->options->senders, bytes = cast->options->bytes;
    uint64_t filler = m;

    memcpy(frame, cast->receive_before, cast->body);
    frame += cast->body;
    number_write(frame, SENDER_DIGITS, m % senders);
    number_write(frame + SENDER_DIGITS + 1, NUMBER_DIGITS, m / senders);
    for (size_t i = HEADER; i < bytes; i++) {
        /* Knuth's generator: pieces of two messages never look alike. */
        filler = filler * 6364136223846793005u + 1442695040888963407u;
        frame[i] = (char)('a' + (filler >> 33) % 26);
    }
    memcpy(frame + bytes, cast->receive_after, cast->frame - cast->body - bytes);
}

/* Reads a number of fixed width. Returns SIZE_MAX if it is none. */
static size_t number_read(const char *text, int width)
{
    size_t number = 0;

    for (int i = 0; i < width; i++) {
        if (text[i] < '0' || text[i] > '9')
            return SIZE_MAX;
        number = number * 10 + (size_t)(text[i] - '0');
    }
    return number;
}

/* ---- what can be wrong ---- */

_Noreturn static void fail_corrupt(const struct cast *cast, size_t who, size_t m,
                                   const char *got, const char *right)
{
    char text[QUOTED_SIZE], right_text[QUOTED_SIZE];
    size_t at = 0;

    while (got[at] == right[at])
        at++;
    fail("corrupt: client %zu, message %zu of sender %zu, byte %zu: got %s, should be %s",
         who, m / cast->options->senders, m % cast->options->senders, at + 1,
         quote(text, got + at, cast->frame - at),
         quote(right_text, right + at, cast->frame - at));
}

/* Says what is wrong with a frame that is not the right one, and ends. */
_Noreturn static void fail_message(const struct cast *cast, size_t who, const char *frame,
                                   size_t sender, size_t number)
{
    size_t senders = cast->options->senders;
    char right[FRAME_MAX];
    size_t due;

    if (sender >= senders || number == SIZE_MAX ||
        number * senders + sender >= cast->sent) {
        char text[QUOTED_SIZE];
        fail("corrupt: client %zu got %s, which nobody sent", who,
             quote(text, frame, cast->frame));
    }
    frame_write(cast, number * senders + sender, right);
    if (memcmp(frame, right, cast->frame) != 0)
        fail_corrupt(cast, who, number * senders + sender, frame, right);
    due = cast->next[who * senders + sender];
    if (number < due)
        fail("twice: client %zu got message %zu of sender %zu again, %zu was due", who,
             number, sender, due);
    fail("lost or out of order: client %zu got message %zu of sender %zu, %zu was due",
         who, number, sender, due);
}

/* Ends the program if the oldest message on the way is late. */
static void check_deadline(const struct cast *cast, uint64_t now)
{
    const struct options *options = cast->options;
    size_t sender = cast->done % options->senders, number = cast->done / options->senders;
    const struct slot *slot = &cast->slots[cast->done % cast->window];
    size_t who = 0;

    if (cast->done == cast->sent || now < slot->due + options->deadline)
        return;
    while (cast->next[who * options->senders + sender] > number)
        who++;
    fail(
        "late or lost: message %zu of sender %zu did not reach %zu of %zu clients within "
        "%.3f s; the first of them is client %zu",
        number, sender, slot->missing, options->clients,
        (double)options->deadline / SECOND, who);
}

/* The k-th message must be the same for everybody; who gets it first says which it is. */
static void check_order(struct cast *cast, size_t who, size_t m)
{
    size_t k = cast->members[who].got, senders = cast->options->senders;
    size_t *place = &cast->order[k % cast->window];

    if (k == cast->ordered) {
        *place = m;
        cast->ordered++;
    } else if (*place != m) {
        fail("out of order: the message that came as number %zu to client %zu is %zu of "
             "sender %zu, but to another client %zu of sender %zu",
             k, who, m / senders, m % senders, *place / senders, *place % senders);
    }
}

/* ---- receiving ---- */

static void on_message(struct cast *cast, size_t who, const char *frame, uint64_t now)
{
    size_t senders = cast->options->senders;
    size_t sender = number_read(frame + cast->body, SENDER_DIGITS);
    size_t number = number_read(frame + cast->body + SENDER_DIGITS + 1, NUMBER_DIGITS);
    size_t m = number * senders + sender;
    struct slot *slot = &cast->slots[m % cast->window];

    if (sender >= senders || number != cast->next[who * senders + sender] ||
        memcmp(frame, cast->frames + m % cast->window * cast->frame, cast->frame) != 0)
        fail_message(cast, who, frame, sender, number);
    if (cast->options->dialect->same_order)
        check_order(cast, who, m);
    cast->next[who * senders + sender]++;
    cast->members[who].got++;
    slot->missing--;
    if (cast->latencies)
        cast->latencies[cast->latency_count++] = now - slot->due;
    while (cast->done < cast->sent && cast->slots[cast->done % cast->window].missing == 0)
        cast->done++;
}

/* One recv; then every message that is whole. */
static void on_member_readable(struct cast *cast, size_t who)
{
    struct member *member = &cast->members[who];
    char *tail = cast->tails + who * cast->frame;
    char *bytes = cast->bytes;
    size_t size = member->tail_size, n, used;
    uint64_t now;

    memcpy(bytes, tail, size);
    n = conn_read(&cast->conns[who], bytes + size, READ_MAX - size);
    now = clock_now();
    cast->reads += n > 0;
    for (size += n; size > 0; bytes += used, size -= used) {
        used = conn_ping(cast->load, &cast->conns[who], bytes, size);
        if (used == 0 && size < cast->frame)
            break;
        if (used == 0) {
            on_message(cast, who, bytes, now);
            used = cast->frame;
        }
    }
    memcpy(tail, bytes, size);
    member->tail_size = size;
}

/* A publisher is told of each message how many got it, always in the same words. */
static void on_publisher_readable(struct cast *cast, struct conn *conn)
{
    size_t n = conn_read(conn, cast->bytes, READ_MAX), size = strlen(cast->receipt);
    char text[QUOTED_SIZE];

    for (size_t i = 0; i < n; i++) {
        if (cast->bytes[i] != cast->receipt[conn->column])
            fail("publisher %zu: got %s amid receipts '%s'", conn->number,
                 quote(text, cast->bytes + i, n - i), cast->receipt);
        conn->column = (conn->column + 1) % size;
    }
}

static void on_event(struct cast *cast, struct conn *conn, int ready)
{
    size_t who = (size_t)(conn - cast->conns);

    if (ready & EVLOOP_WRITE)
        conn_flush(cast->load, conn);
    if (ready & EVLOOP_READ && who < cast->options->clients)
        on_member_readable(cast, who);
    else if (ready & EVLOOP_READ)
        on_publisher_readable(cast, conn);
}

/* ---- sending ---- */

/* Returns when the next message shall be sent. */
static uint64_t next_due(const struct cast *cast, uint64_t now)
{
    if (cast->interval == 0)
        return now;
    return cast->start + (cast->sent - cast->first) * cast->interval;
}

/* Hands the next message to its sender's connection. */
static void message_write(struct cast *cast, uint64_t due)
{
    size_t m = cast->sent++;
    struct conn *conn = &cast->sender_conns[m % cast->options->senders];
    char *frame = cast->frames + m % cast->window * cast->frame;

    cast->slots[m % cast->window] = (struct slot){due, cast->options->clients};
    frame_write(cast, m, frame);
    conn_write(conn, cast->send_before, strlen(cast->send_before));
    conn_write(conn, frame + cast->body, cast->options->bytes);
    conn_write(conn, cast->send_after, strlen(cast->send_after));
}

/* Sends what the window and the clock allow, with one send(2) for each sender. */
static void messages_send(struct cast *cast, size_t until)
{
    size_t first = cast->sent, senders = cast->options->senders;
    uint64_t now = clock_now(), due;

    while (cast->sent < until && cast->sent - cast->done < cast->window &&
           (due = next_due(cast, now)) <= now) {
        if (now - due > cast->sent_late)
            cast->sent_late = now - due;
        message_write(cast, due);
    }
    for (size_t m = first; m < cast->sent && m - first < senders; m++)
        conn_flush(cast->load, &cast->sender_conns[m % senders]);
}

/* Returns for how many milliseconds there is nothing to do but to receive. */
static int wait_ms(const struct cast *cast, size_t until)
{
    uint64_t now = clock_now(), due = next_due(cast, now);

    if (cast->interval == 0 || cast->sent == until || due > now + TICK)
        return TICK_MS;
    return due < now ? 0 : (int)((due - now) / MILLISECOND);
}

/* Sends messages until `until` of them are sent and received. */
static void cast_run(struct cast *cast, size_t until)
{
    struct evloop_event events[EVLOOP_BATCH];

    cast->start = clock_now();
    cast->first = cast->sent;
    while (cast->done < until) {
        messages_send(cast, until);
        int n = evloop_wait(cast->load->loop, events, EVLOOP_BATCH, wait_ms(cast, until));
        if (n < 0)
            fail_errno("evloop_wait");
        check_deadline(cast, clock_now()); /* before anything late is received */
        for (int i = 0; i < n; i++)
            on_event(cast, events[i].data, events[i].ready);
        progress(cast->load, "messages", cast->done, until);
    }
}

/* ---- beginning and end ---- */

/* Puts the numbers into a dialect's text. */
static void text_expand(const struct options *options, const char *text, char *out)
{
    char *end = out + WRAP_MAX - 1;

    for (; *text && out < end; text++)
        if (*text == '#')
            out += snprintf(out, (size_t)(end - out), "%zu", options->bytes);
        else if (*text == '@')
            out += snprintf(out, (size_t)(end - out), "%zu",
                            options->clients + options->stalled);
        else
            *out++ = *text;
    *out = '\0';
}

static void texts_prepare(struct cast *cast)
{
    const struct options *options = cast->options;
    const struct dialect *dialect = options->dialect;

    text_expand(options, dialect->send_before, cast->send_before);
    text_expand(options, dialect->send_after, cast->send_after);
    text_expand(options, dialect->receive_before, cast->receive_before);
    text_expand(options, dialect->receive_after, cast->receive_after);
    text_expand(options, dialect->receipt, cast->receipt);
    if (options->prefix)
        snprintf(cast->receive_before, WRAP_MAX, "%s", options->prefix);
    cast->body = strlen(cast->receive_before);
    cast->frame = cast->body + options->bytes + strlen(cast->receive_after);
}

/* Opens all connections: first the members, who also send if the dialect lets them. */
static void conns_open(struct cast *cast)
{
    const struct options *options = cast->options;
    size_t members = options->clients, stalled = options->stalled;
    bool publish = options->dialect->publisher.request != NULL;
    size_t publishers = publish ? options->senders : 0;
    struct conn *conns = allocate(members + stalled + publishers, sizeof *conns);

    crowd_open(cast->load, conns, MEMBER, members, 0, false);
    crowd_open(cast->load, conns + members, STALLED, stalled, members, false);
    crowd_open(cast->load, conns + members + stalled, PUBLISHER, publishers,
               members + stalled, false);
    cast->conns = conns;
    cast->sender_conns = publish ? conns + members + stalled : conns;
}

/* Returns a cast that is ready to run, all its clients connected. */
static struct cast *cast_open(struct load *load, size_t window)
{
    const struct options *options = &load->options;
    struct cast *cast = allocate(1, sizeof *cast);

    cast->load = load;
    cast->options = options;
    cast->window = window;
    texts_prepare(cast);
    cast->members = allocate(options->clients, sizeof *cast->members);
    cast->tails = allocate(options->clients, cast->frame);
    cast->next = allocate(options->clients * options->senders, sizeof *cast->next);
    cast->slots = allocate(window, sizeof *cast->slots);
    cast->frames = allocate(window, cast->frame);
    cast->order = allocate(window, sizeof *cast->order);
    conns_open(cast);
    return cast;
}

/* Nothing may follow the last message. */
static void check_end(const struct cast *cast)
{
    for (size_t who = 0; who < cast->options->clients; who++) {
        if (cast->members[who].tail_size)
            fail("client %zu got %zu bytes behind the last message", who,
                 cast->members[who].tail_size);
        conn_expect_nothing(cast->load, &cast->conns[who]);
    }
}

static void cast_close(struct cast *cast)
{
    for (size_t i = 0; i < cast->options->clients + cast->options->stalled; i++)
        conn_close(cast->load, &cast->conns[i]);
    if (cast->sender_conns != cast->conns)
        for (size_t i = 0; i < cast->options->senders; i++)
            conn_close(cast->load, &cast->sender_conns[i]);
    free(cast->conns);
    free(cast->members);
    free(cast->tails);
    free(cast->next);
    free(cast->slots);
    free(cast->frames);
    free(cast->order);
    free(cast->latencies);
    free(cast);
}

/* Runs the warm-up and the measured part. Returns what the measured part used. */
static struct meter cast_measure(struct cast *cast)
{
    const struct options *options = cast->options;
    bool latencies = cast->interval > 0;
    struct meter start, used;

    cast_run(cast, options->warmup);
    cast->reads = 0;
    cast->sent_late = 0;
    if (latencies)
        cast->latencies =
            allocate(options->messages * options->clients, sizeof *cast->latencies);
    start = meter_read(cast->load, NULL);
    cast_run(cast, options->warmup + options->messages);
    used = meter_read(cast->load, &start);
    check_end(cast);
    return used;
}

static void report(const struct cast *cast, const struct meter *used)
{
    const struct options *options = cast->options;
    double deliveries = (double)options->messages * (double)options->clients;

    printf("chatload mode=%s dialect=%s clients=%zu senders=%zu bytes=%zu window=%zu "
           "messages=%zu deliveries=%.0f",
           options->mode, options->dialect->name, options->clients, options->senders,
           options->bytes, cast->window, options->messages, deliveries);
    printf(" seconds=%.6f deliveries_per_second=%.0f ns_per_delivery=%.1f "
           "tester_cpu_ns_per_delivery=%.1f deliveries_per_read=%.2f",
           (double)used->wall / SECOND, deliveries * SECOND / (double)used->wall,
           (double)used->wall / deliveries, (double)used->own_cpu / deliveries,
           deliveries / (double)cast->reads);
    if (options->pid)
        printf(" server_cpu_ns_per_delivery=%.1f", (double)used->server_cpu / deliveries);
}

/* slow is the same with stalled clients, and shows what memory they cost. */
void mode_broadcast(struct load *load)
{
    int64_t before = meter_memory(load, "status", "VmRSS:");
    struct cast *cast = cast_open(load, load->options.window);
    struct meter used = cast_measure(cast);

    report(cast, &used);
    if (before >= 0)
        printf(" stalled=%zu server_memory_growth=%" PRId64, load->options.stalled,
               meter_memory(load, "status", "VmHWM:") - before);
    printf("\n");
    cast_close(cast);
}

static int latency_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Returns the latency that so many in a thousand deliveries do not exceed. */
static double latency_us(const struct cast *cast, size_t per_mille)
{
    size_t place = (cast->latency_count - 1) * per_mille / 1000;

    return (double)cast->latencies[place] / 1000;
}

/* What is older than the deadline is late: so the window never holds back a message. */
void mode_latency(struct load *load)
{
    const struct options *options = &load->options;
    uint64_t window = options->deadline / SECOND * options->rate + options->rate + 1;
    struct cast *cast = cast_open(load, (size_t)window);
    struct meter used;

    cast->interval = SECOND / options->rate;
    used = cast_measure(cast);
    qsort(cast->latencies, cast->latency_count, sizeof *cast->latencies, latency_compare);
    report(cast, &used);
    printf(" rate=%zu latency_us_p50=%.1f latency_us_p99=%.1f latency_us_p99.9=%.1f "
           "latency_us_max=%.1f tester_late_us_max=%.1f\n",
           options->rate, latency_us(cast, 500), latency_us(cast, 990),
           latency_us(cast, 999), latency_us(cast, 1000), (double)cast->sent_late / 1000);
    cast_close(cast);
}
