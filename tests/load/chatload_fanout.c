/*
 * chatload_fanout.c - the load tester's modes broadcast, latency and slow: deliveries
 *
 * The senders take turns: message m is number m / senders of sender m % senders. All its
 * bytes follow from these two numbers, so every delivery is compared byte for byte.
 *
 * A message is in flight from the moment it is handed to the kernel until the last
 * receiver has all of it. At most a window of messages is in flight: message m is sent
 * when every receiver has all up to m - window. A ring of that many slots holds them.
 *
 * Checked for every delivery:
 *   - its bytes, and what the dialect puts around them;
 *   - that it is the sender's next one: nothing lost, nothing twice, nothing early;
 *   - if the dialect promises it, that all receivers get all messages in one order;
 *   - that it came within the deadline.
 *
 * Latency is measured open loop: messages are due at fixed times, and a delivery's
 * latency counts from the time when its message was due. So the messages that were due
 * while the server stalled count against it, too. In the last millisecond before a
 * message is due the tester spins, since evloop_wait() counts in milliseconds.
 *
 * Flooders send messages of their own, as fast as the server reads them, and discard what
 * they receive. Everybody gets these messages too; they are compared but not measured.
 */
#include "../../final/evloop.h"
#include "chatload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_MS = 100 }; /* how often deadlines are checked */
enum { MILLISECOND = 1000000, TICK = TICK_MS * MILLISECOND };
enum { READ_MAX = 64 * 1024 };  /* bytes per recv */
enum { FLOOD_LEN = 64 * 1024 }; /* bytes that a flooder has ready to be sent */
/* A message begins with its two numbers: "00007:000000042:" is message 42 of sender 7. */
enum { SENDER_DIGITS = 5, NUMBER_DIGITS = 9, HEADER = SENDER_DIGITS + NUMBER_DIGITS + 2 };
enum { WRAP_MAX = 128 }; /* what a dialect puts before or after a message */
enum { FRAME_MAX = WRAP_MAX + BYTES_MAX + WRAP_MAX };

/* The sender's number in a flooder's messages; no sender has it. */
enum { FLOODER = 99999 };

/* A message in flight. */
struct slot {
    uint64_t due;   /* when it was sent, or should have been */
    size_t missing; /* how many receivers still lack it */
};

struct member {
    size_t got;      /* messages received */
    size_t tail_len; /* bytes of a message that has not come whole */
};

struct fanout {
    struct load *load;
    const struct options *options;
    struct conn *conns; /* members, stalled clients, publishers, flooders */
    struct conn *sender_conns, *flooder_conns;
    struct member *members;
    char *tails; /* tail_max bytes for each member */
    size_t tail_max;
    uint32_t *next; /* [member * senders + sender]: the number that is due */

    char send_before[WRAP_MAX], send_after[WRAP_MAX];
    char receive_before[WRAP_MAX], receive_after[WRAP_MAX], receipt[WRAP_MAX];
    size_t frame;          /* bytes of a message as it is received */
    size_t body;           /* where in them the message itself begins */
    char flood[FRAME_MAX]; /* a flooder's message as it is received, */
    size_t flood_len;

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
static void frame_write(const struct fanout *fanout, size_t m, char *frame)
{
    size_t senders = fanout->options->senders, bytes = fanout->options->bytes;
    uint64_t filler = m;

    memcpy(frame, fanout->receive_before, fanout->body);
    frame += fanout->body;
    number_write(frame, SENDER_DIGITS, m % senders);
    number_write(frame + SENDER_DIGITS + 1, NUMBER_DIGITS, m / senders);
    for (size_t i = HEADER; i < bytes; i++) {
        /* Knuth's generator: pieces of two messages never look alike. */
        filler = filler * 6364136223846793005u + 1442695040888963407u;
        frame[i] = (char)('a' + (filler >> 33) % 26);
    }
    memcpy(frame + bytes, fanout->receive_after, fanout->frame - fanout->body - bytes);
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

_Noreturn static void fail_corrupt(const struct fanout *fanout, size_t who, size_t m,
                                   const char *got, const char *right)
{
    char text[QUOTED_SIZE], right_text[QUOTED_SIZE];
    size_t at = 0;

    while (got[at] == right[at])
        at++;
    fail("corrupt: client %zu, message %zu of sender %zu, byte %zu: got %s, should be %s",
         who, m / fanout->options->senders, m % fanout->options->senders, at + 1,
         quote(text, got + at, fanout->frame - at),
         quote(right_text, right + at, fanout->frame - at));
}

/* Says what is wrong with a frame, and ends the program. */
_Noreturn static void fail_message(const struct fanout *fanout, size_t who,
                                   const char *frame, size_t sender, size_t number)
{
    size_t senders = fanout->options->senders;
    char right[FRAME_MAX];
    size_t due;

    if (sender >= senders || number == SIZE_MAX ||
        number * senders + sender >= fanout->sent) {
        char text[QUOTED_SIZE];
        fail("corrupt: client %zu got %s, which nobody sent", who,
             quote(text, frame, fanout->frame));
    }
    frame_write(fanout, number * senders + sender, right);
    if (memcmp(frame, right, fanout->frame) != 0)
        fail_corrupt(fanout, who, number * senders + sender, frame, right);
    due = fanout->next[who * senders + sender];
    if (number < due)
        fail("twice: client %zu got message %zu of sender %zu again, %zu was due", who,
             number, sender, due);
    fail("lost or out of order: client %zu got message %zu of sender %zu, %zu was due",
         who, number, sender, due);
}

/* Ends the program if the oldest message in flight is late. */
static void check_deadline(const struct fanout *fanout, uint64_t now)
{
    const struct options *options = fanout->options;
    size_t sender = fanout->done % options->senders,
           number = fanout->done / options->senders;
    const struct slot *slot = &fanout->slots[fanout->done % fanout->window];
    size_t who = 0;

    if (fanout->done == fanout->sent || now < slot->due + options->deadline)
        return;
    while (fanout->next[who * options->senders + sender] > number)
        who++;
    fail(
        "late or lost: message %zu of sender %zu did not reach %zu of %zu clients within "
        "%.3f s; the first of them is client %zu",
        number, sender, slot->missing, options->clients,
        (double)options->deadline / SECOND, who);
}

/* The k-th message must be the same for everybody; its first receiver says which. */
static void check_order(struct fanout *fanout, size_t who, size_t m)
{
    size_t k = fanout->members[who].got, senders = fanout->options->senders;
    size_t *place = &fanout->order[k % fanout->window];

    if (k == fanout->ordered) {
        *place = m;
        fanout->ordered++;
    } else if (*place != m) {
        fail("out of order: the message that came as number %zu to client %zu is %zu of "
             "sender %zu, but to another client %zu of sender %zu",
             k, who, m / senders, m % senders, *place / senders, *place % senders);
    }
}

/* ---- receiving ---- */

static void on_message(struct fanout *fanout, size_t who, const char *frame, uint64_t now)
{
    size_t senders = fanout->options->senders;
    size_t sender = number_read(frame + fanout->body, SENDER_DIGITS);
    size_t number = number_read(frame + fanout->body + SENDER_DIGITS + 1, NUMBER_DIGITS);
    size_t m = number * senders + sender;
    struct slot *slot = &fanout->slots[m % fanout->window];

    if (sender >= senders || number != fanout->next[who * senders + sender] ||
        memcmp(frame, fanout->frames + m % fanout->window * fanout->frame,
               fanout->frame) != 0)
        fail_message(fanout, who, frame, sender, number);
    if (fanout->options->dialect->same_order)
        check_order(fanout, who, m);
    fanout->next[who * senders + sender]++;
    fanout->members[who].got++;
    slot->missing--;
    if (fanout->latencies)
        fanout->latencies[fanout->latency_count++] = now - slot->due;
    while (fanout->done < fanout->sent &&
           fanout->slots[fanout->done % fanout->window].missing == 0)
        fanout->done++;
}

/*
 * Returns the length of the frame at the front of len bytes; it may not have come whole.
 * If there are too few bytes to tell its kind, there are fewer than either kind has.
 */
static size_t frame_len(const struct fanout *fanout, const char *bytes, size_t len)
{
    size_t told = fanout->body + SENDER_DIGITS;

    if (fanout->options->flooders > 0 && len >= told &&
        memcmp(bytes, fanout->flood, told) == 0)
        return fanout->flood_len;
    return fanout->frame;
}

static void on_flood(const struct fanout *fanout, size_t who, const char *frame)
{
    if (memcmp(frame, fanout->flood, fanout->flood_len) != 0)
        fail("corrupt: client %zu got a flooder's message with a byte changed", who);
}

/* One recv; then every message that is whole. */
static void on_member_readable(struct fanout *fanout, size_t who)
{
    struct member *member = &fanout->members[who];
    char *tail = fanout->tails + who * fanout->tail_max;
    char *bytes = fanout->bytes;
    size_t len = member->tail_len, n, used;
    uint64_t now;

    memcpy(bytes, tail, len);
    n = conn_read(&fanout->conns[who], bytes + len, READ_MAX - len);
    now = clock_ns();
    fanout->reads += n > 0;
    for (len += n; len > 0; bytes += used, len -= used) {
        used = conn_ping(fanout->load, &fanout->conns[who], bytes, len);
        if (used > 0)
            continue;
        used = frame_len(fanout, bytes, len);
        if (len < used)
            break;
        if (used == fanout->frame)
            on_message(fanout, who, bytes, now);
        else
            on_flood(fanout, who, bytes);
    }
    memcpy(tail, bytes, len);
    member->tail_len = len;
}

/* For each message a publisher is told how many got it, always in the same words. */
static void on_publisher_readable(struct fanout *fanout, struct conn *conn)
{
    size_t n = conn_read(conn, fanout->bytes, READ_MAX), len = strlen(fanout->receipt);
    char text[QUOTED_SIZE];

    for (size_t i = 0; i < n; i++) {
        if (fanout->bytes[i] != fanout->receipt[conn->column])
            fail("publisher %zu: got %s amid receipts '%s'", conn->number,
                 quote(text, fanout->bytes + i, n - i), fanout->receipt);
        conn->column = (conn->column + 1) % len;
    }
}

static void on_event(struct fanout *fanout, struct conn *conn, int ready)
{
    size_t who = (size_t)(conn - fanout->conns);

    if (ready & EVLOOP_WRITE)
        conn_flush(fanout->load, conn);
    if (ready & EVLOOP_READ && who < fanout->options->clients)
        on_member_readable(fanout, who);
    else if (ready & EVLOOP_READ && conn >= fanout->flooder_conns)
        conn_read(conn, fanout->bytes, READ_MAX);
    else if (ready & EVLOOP_READ)
        on_publisher_readable(fanout, conn);
}

/* ---- sending ---- */

/* Returns when the next message shall be sent. */
static uint64_t next_due(const struct fanout *fanout, uint64_t now)
{
    if (fanout->interval == 0)
        return now;
    return fanout->start + (fanout->sent - fanout->first) * fanout->interval;
}

/* Hands the next message to its sender's connection. */
static void message_write(struct fanout *fanout, uint64_t due)
{
    size_t m = fanout->sent++;
    struct conn *conn = &fanout->sender_conns[m % fanout->options->senders];
    char *frame = fanout->frames + m % fanout->window * fanout->frame;

    fanout->slots[m % fanout->window] = (struct slot){due, fanout->options->clients};
    frame_write(fanout, m, frame);
    conn_write(conn, fanout->send_before, strlen(fanout->send_before));
    conn_write(conn, frame + fanout->body, fanout->options->bytes);
    conn_write(conn, fanout->send_after, strlen(fanout->send_after));
}

/* Sends what the window and the clock allow, with one send(2) per sender. */
static void messages_send(struct fanout *fanout, size_t until)
{
    size_t first = fanout->sent, senders = fanout->options->senders;
    uint64_t now = clock_ns(), due;

    while (fanout->sent < until && fanout->sent - fanout->done < fanout->window &&
           (due = next_due(fanout, now)) <= now) {
        if (now - due > fanout->sent_late)
            fanout->sent_late = now - due;
        message_write(fanout, due);
    }
    for (size_t m = first; m < fanout->sent && m - first < senders; m++)
        conn_flush(fanout->load, &fanout->sender_conns[m % senders]);
}

/* Makes sure that every flooder has something to send. */
static void floods_send(struct fanout *fanout)
{
    size_t len = fanout->flood_len - fanout->body;

    for (size_t i = 0; i < fanout->options->flooders; i++) {
        struct conn *conn = &fanout->flooder_conns[i];
        while (conn->out_len + len <= FLOOD_LEN)
            conn_write(conn, fanout->flood + fanout->body, len);
        conn_flush(fanout->load, conn);
    }
}

/* Returns for how many milliseconds there is nothing to do but receive. */
static int wait_ms(const struct fanout *fanout, size_t until)
{
    uint64_t now = clock_ns(), due = next_due(fanout, now);

    if (fanout->interval == 0 || fanout->sent == until || due > now + TICK)
        return TICK_MS;
    return due < now ? 0 : (int)((due - now) / MILLISECOND);
}

/* Sends messages until `until` of them are sent and received. */
static void fanout_run(struct fanout *fanout, size_t until)
{
    struct evloop_event events[EVLOOP_BATCH];

    fanout->start = clock_ns();
    fanout->first = fanout->sent;
    while (fanout->done < until) {
        messages_send(fanout, until);
        floods_send(fanout);
        int n =
            evloop_wait(fanout->load->loop, events, EVLOOP_BATCH, wait_ms(fanout, until));
        if (n < 0)
            fail_errno("evloop_wait");
        check_deadline(fanout, clock_ns()); /* before anything late is received */
        for (int i = 0; i < n; i++)
            on_event(fanout, events[i].data, events[i].ready);
        progress(fanout->load, "messages", fanout->done, until);
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

static void texts_prepare(struct fanout *fanout)
{
    const struct options *options = fanout->options;
    const struct dialect *dialect = options->dialect;

    text_expand(options, dialect->send_before, fanout->send_before);
    text_expand(options, dialect->send_after, fanout->send_after);
    text_expand(options, dialect->receive_before, fanout->receive_before);
    text_expand(options, dialect->receive_after, fanout->receive_after);
    text_expand(options, dialect->receipt, fanout->receipt);
    if (options->prefix)
        snprintf(fanout->receive_before, WRAP_MAX, "%s", options->prefix);
    fanout->body = strlen(fanout->receive_before);
    fanout->frame = fanout->body + options->bytes + strlen(fanout->receive_after);
}

/* A flooder's message is the longest that there can be, and always the same. */
static void flood_prepare(struct fanout *fanout)
{
    char *text = fanout->flood + fanout->body;

    memcpy(fanout->flood, fanout->receive_before, fanout->body);
    number_write(text, SENDER_DIGITS, FLOODER);
    memset(text + SENDER_DIGITS + 1, 'f', BYTES_MAX - SENDER_DIGITS - 1);
    text[BYTES_MAX] = '\n';
    fanout->flood_len = fanout->body + BYTES_MAX + 1;
    fanout->tail_max =
        fanout->flood_len > fanout->frame ? fanout->flood_len : fanout->frame;
}

/* Opens all connections: first the members, which also send if the dialect lets them. */
static void conns_open(struct fanout *fanout)
{
    const struct options *options = fanout->options;
    size_t members = options->clients, stalled = options->stalled;
    bool publish = options->dialect->publisher.request != NULL;
    size_t publishers = publish ? options->senders : 0, others = members + stalled;
    struct conn *conns = allocate(others + publishers + options->flooders, sizeof *conns);

    crowd_open(fanout->load, conns, MEMBER, members, 0, false);
    crowd_open(fanout->load, conns + members, STALLED, stalled, members, false);
    crowd_open(fanout->load, conns + others, PUBLISHER, publishers, others, false);
    others += publishers;
    crowd_open(fanout->load, conns + others, MEMBER, options->flooders, others, false);
    fanout->conns = conns;
    fanout->sender_conns = publish ? conns + members + stalled : conns;
    fanout->flooder_conns = conns + others;
}

/* Returns a fanout that is ready to run, with all its clients connected. */
static struct fanout *fanout_open(struct load *load, size_t window)
{
    const struct options *options = &load->options;
    struct fanout *fanout = allocate(1, sizeof *fanout);

    fanout->load = load;
    fanout->options = options;
    fanout->window = window;
    texts_prepare(fanout);
    flood_prepare(fanout);
    fanout->members = allocate(options->clients, sizeof *fanout->members);
    fanout->tails = allocate(options->clients, fanout->tail_max);
    fanout->next = allocate(options->clients * options->senders, sizeof *fanout->next);
    fanout->slots = allocate(window, sizeof *fanout->slots);
    fanout->frames = allocate(window, fanout->frame);
    fanout->order = allocate(window, sizeof *fanout->order);
    conns_open(fanout);
    return fanout;
}

/* Nothing may follow the last message, unless somebody floods. */
static void check_end(const struct fanout *fanout)
{
    if (fanout->options->flooders > 0)
        return;
    for (size_t who = 0; who < fanout->options->clients; who++) {
        if (fanout->members[who].tail_len)
            fail("client %zu got %zu bytes after the last message", who,
                 fanout->members[who].tail_len);
        conn_expect_nothing(fanout->load, &fanout->conns[who]);
    }
}

static void fanout_close(struct fanout *fanout)
{
    for (size_t i = 0; i < fanout->options->clients + fanout->options->stalled; i++)
        conn_close(fanout->load, &fanout->conns[i]);
    if (fanout->sender_conns != fanout->conns)
        for (size_t i = 0; i < fanout->options->senders; i++)
            conn_close(fanout->load, &fanout->sender_conns[i]);
    for (size_t i = 0; i < fanout->options->flooders; i++)
        conn_close(fanout->load, &fanout->flooder_conns[i]);
    free(fanout->conns);
    free(fanout->members);
    free(fanout->tails);
    free(fanout->next);
    free(fanout->slots);
    free(fanout->frames);
    free(fanout->order);
    free(fanout->latencies);
    free(fanout);
}

/* Runs the warm-up and the measured part. Returns what the measured part used. */
static struct meter fanout_measure(struct fanout *fanout)
{
    const struct options *options = fanout->options;
    bool latencies = fanout->interval > 0;
    struct meter start, used;

    fanout_run(fanout, options->warmup);
    fanout->reads = 0;
    fanout->sent_late = 0;
    if (latencies)
        fanout->latencies =
            allocate(options->messages * options->clients, sizeof *fanout->latencies);
    start = meter_read(fanout->load, NULL);
    fanout_run(fanout, options->warmup + options->messages);
    used = meter_read(fanout->load, &start);
    check_end(fanout);
    return used;
}

static void report(const struct fanout *fanout, const struct meter *used)
{
    const struct options *options = fanout->options;
    double deliveries = (double)options->messages * (double)options->clients;

    printf("chatload mode=%s dialect=%s clients=%zu senders=%zu bytes=%zu window=%zu "
           "messages=%zu deliveries=%.0f",
           options->mode->name, options->dialect->name, options->clients,
           options->senders, options->bytes, fanout->window, options->messages,
           deliveries);
    printf(
        " seconds=%.6f us_per_message=%.1f deliveries_per_second=%.0f "
        "ns_per_delivery=%.1f tester_cpu_ns_per_delivery=%.1f deliveries_per_read=%.2f",
        (double)used->wall / SECOND,
        (double)used->wall / 1000 / (double)options->messages,
        deliveries * SECOND / (double)used->wall, (double)used->wall / deliveries,
        (double)used->own_cpu / deliveries, deliveries / (double)fanout->reads);
    if (options->pid)
        printf(" server_cpu_ns_per_delivery=%.1f", (double)used->server_cpu / deliveries);
}

/* Also reports by how much the server grew: what stalled clients cost it. */
void mode_broadcast(struct load *load)
{
    int64_t before = meter_memory(load, "status", "VmRSS:");
    struct fanout *fanout = fanout_open(load, load->options.window);
    struct meter used = fanout_measure(fanout);

    report(fanout, &used);
    if (before >= 0)
        printf(" stalled=%zu server_memory_growth=%" PRId64, load->options.stalled,
               meter_memory(load, "status", "VmHWM:") - before);
    printf("\n");
    fanout_close(fanout);
}

static int latency_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Returns the latency that per_mille of a thousand deliveries do not exceed. */
static double latency_us(const struct fanout *fanout, size_t per_mille)
{
    size_t place = (fanout->latency_count - 1) * per_mille / 1000;

    return (double)fanout->latencies[place] / 1000;
}

/* A message older than the deadline is late, so the window never holds one back. */
void mode_latency(struct load *load)
{
    const struct options *options = &load->options;
    uint64_t window = options->deadline / SECOND * options->rate + options->rate + 1;
    struct fanout *fanout = fanout_open(load, (size_t)window);
    struct meter used;

    fanout->interval = SECOND / options->rate;
    used = fanout_measure(fanout);
    qsort(fanout->latencies, fanout->latency_count, sizeof *fanout->latencies,
          latency_compare);
    report(fanout, &used);
    printf(" rate=%zu latency_us_p50=%.1f latency_us_p99=%.1f latency_us_p99.9=%.1f "
           "latency_us_max=%.1f tester_late_us_max=%.1f\n",
           options->rate, latency_us(fanout, 500), latency_us(fanout, 990),
           latency_us(fanout, 999), latency_us(fanout, 1000),
           (double)fanout->sent_late / 1000);
    fanout_close(fanout);
}
