/*
 * server_fuzz - the whole server, and clients that do whatever a script says
 *
 * A libFuzzer target: the server runs in this process, its clients are socket pairs with
 * small buffers, and the clock stands still until the script moves it. The input is the
 * script, two bytes per action: what and who, then how much. See fuzz.py. What must hold:
 *
 *   - the feed is an interleaving of what the clients sent, each one's messages whole, in
 *     order, none missing (but a client that vanished or was ended may lose its last);
 *   - each client gets the greeting, then the feed from where it came, byte for byte, as
 *     soon as it reads;
 *   - a client that half-closed gets all up to its own last message, and then the end;
 *   - nobody else is ended without a reason: lagging, taking no byte, saying nothing;
 *   - the loop does not spin, and when all clients have gone, nothing of them is left.
 */
#include "../../final/feed.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

static int64_t script_ms; /* the time */

static int clock_script(clockid_t clock, struct timespec *now)
{
    (void)clock;
    now->tv_sec = script_ms / 1000;
    now->tv_nsec = script_ms % 1000 * 1000000;
    return 0;
}

static void chat_read(void);

/* This program has a cursor of its own, which must not be taken for a client's. */
static struct feed_cursor *laggard_but_reader(const struct feed *feed, uint64_t lag_max)
{
    chat_read();
    return feed_laggard(feed, lag_max);
}

#define feed_laggard laggard_but_reader
#define clock_gettime clock_script
#define main server_main
#include "../../final/chatsrv.c" /* NOLINT(bugprone-suspicious-include) */
#include "../unit/check.h"
#undef main
#undef clock_gettime
#undef feed_laggard

enum {
    PEERS = 8,
    PLACES = 6,           /* fewer than come: the rest are refused */
    SOCKET_BUFFER = 8192, /* bytes, so that clients stall early */
    LAG_MAX = 100000,     /* bytes */
    STALL_S = 60,         /* seconds */
    IDLE_S = 300,         /* seconds */
    CHAT_MAX = 4 << 20,   /* bytes of the feed in one script */
    TURNS_MAX = 3000      /* for one action; a loop that makes more spins */
};

/* Bytes that grow. */
struct bytes {
    char *bytes;
    size_t len, size;
};

struct peer {
    int fd;           /* -1: there is none */
    bool stalled;     /* does not read */
    bool half_closed; /* does not write any more */
    bool doomed;      /* what it sent may be lost: it vanished, or was ended */
    char name[64];    /* "10.0.0.1: " before its messages */
    char line[MESSAGE_MAX];
    size_t line_len;   /* what it sent of an incomplete message */
    struct bytes due;  /* what the feed must have of it */
    size_t appeared;   /* how much of that the feed has had */
    uint64_t last_end; /* where in the feed the last of that ended */
    uint64_t begin;    /* where in the feed it came */
    struct bytes got;  /* what it received, */
    size_t checked;    /* and how much of that has been compared */
    int64_t flowed;    /* when it had last taken all there was, */
    int64_t spoke;     /* and when it last said something */
};

static struct {
    struct peer peers[PEERS];
    unsigned connected;        /* how many in this script */
    struct feed_cursor reader; /* reads along */
    uint64_t begin;            /* where the feed was when the script began */
    struct bytes chat;         /* all of it since */
    size_t judged;             /* how much of it has been attributed */
} script;

static void bytes_add(struct bytes *to, const char *bytes, size_t len)
{
    if (to->size - to->len < len) {
        to->size = 2 * (to->len + len);
        CHECK((to->bytes = realloc(to->bytes, to->size)) != NULL);
    }
    if (len > 0)
        memcpy(to->bytes + to->len, bytes, len);
    to->len += len;
}

/* ---- the model ---- */

static void peer_owes(struct peer *peer)
{
    bytes_add(&peer->due, peer->name, strlen(peer->name));
    bytes_add(&peer->due, peer->line, peer->line_len);
    bytes_add(&peer->due, "\n", 1);
    peer->line_len = 0;
}

/* The protocol's rule: a message ends at a newline, or when the 1025th byte comes. */
static void peer_sent(struct peer *peer, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == '\n' || peer->line_len == MESSAGE_MAX)
            peer_owes(peer);
        if (bytes[i] != '\n')
            peer->line[peer->line_len++] = bytes[i];
    }
}

/* Each client has an address of its own, so each line of the chat says who said it. */
static struct peer *peer_of(const char *line, size_t len)
{
    struct peer *found = NULL;

    for (struct peer *peer = script.peers; peer < script.peers + PEERS; peer++) {
        size_t name_len = strlen(peer->name);
        if (name_len > 0 && name_len < len && memcmp(peer->name, line, name_len) == 0)
            found = peer;
    }
    CHECK(found != NULL);
    return found;
}

/* Follows the feed, and attributes each new line to the client that must have sent it. */
static void chat_read(void)
{
    struct iovec pieces[FEED_PIECES];
    size_t len;

    while ((len = cursor_peek(&script.reader, UINT64_MAX, pieces)) > 0) {
        for (int i = 0; i < FEED_PIECES; i++)
            bytes_add(&script.chat, pieces[i].iov_base, pieces[i].iov_len);
        cursor_advance(&server.feed, &script.reader, len);
    }
    while (script.judged < script.chat.len) {
        const char *line = script.chat.bytes + script.judged;
        const char *newline = memchr(line, '\n', script.chat.len - script.judged);
        CHECK(newline != NULL); /* messages are whole */
        size_t line_len = (size_t)(newline - line) + 1;
        struct peer *peer = peer_of(line, line_len);
        CHECK(peer->due.len - peer->appeared >= line_len);
        CHECK(memcmp(peer->due.bytes + peer->appeared, line, line_len) == 0);
        peer->appeared += line_len;
        script.judged += line_len;
        peer->last_end = script.begin + script.judged;
    }
}

/* What the client got must be the greeting, then the chat from where it came. */
static void stream_check(struct peer *peer)
{
    size_t begin = (size_t)(peer->begin - script.begin);

    CHECK(peer->got.len <= GREETING_LEN + script.chat.len - begin);
    while (peer->checked < peer->got.len && peer->checked < GREETING_LEN) {
        CHECK(peer->got.bytes[peer->checked] == GREETING[peer->checked]);
        peer->checked++;
    }
    if (peer->checked < peer->got.len)
        CHECK(memcmp(peer->got.bytes + peer->checked,
                     script.chat.bytes + begin + peer->checked - GREETING_LEN,
                     peer->got.len - peer->checked) == 0);
    peer->checked = peer->got.len;
}

/* The server has closed the connection: why? */
static void end_check(const struct peer *peer)
{
    size_t rest = peer->got.len < GREETING_LEN ? 0 : peer->got.len - GREETING_LEN;
    uint64_t place = peer->begin + rest;
    uint64_t lag = script.begin + script.chat.len - place;
    bool complete = peer->half_closed && place >= peer->last_end &&
                    peer->appeared == peer->due.len && peer->got.len >= GREETING_LEN &&
                    peer->got.bytes[peer->got.len - 1] == '\n';

    CHECK(complete || lag > LAG_MAX || script_ms - peer->flowed >= STALL_S * 1000 ||
          script_ms - peer->spoke >= IDLE_S * 1000);
}

/* ---- the clients ---- */

static void peer_reset(struct peer *peer)
{
    free(peer->due.bytes);
    free(peer->got.bytes);
    *peer = (struct peer){.fd = -1};
}

static void peer_leave(struct peer *peer)
{
    if (peer->fd >= 0)
        close(peer->fd);
    peer->fd = -1;
    peer->doomed = true;
}

static void peer_read(struct peer *peer, size_t max)
{
    char bytes[4096];

    while (peer->fd >= 0 && max > 0) {
        ssize_t n = recv(peer->fd, bytes, max < sizeof bytes ? max : sizeof bytes, 0);
        if (n > 0) {
            bytes_add(&peer->got, bytes, (size_t)n);
            max -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            peer->flowed = script_ms;
            break;
        } else { /* a reset is an end like any other */
            end_check(peer);
            peer_leave(peer);
        }
    }
    stream_check(peer);
}

/* What the kernel did not take has not been sent. */
static void peer_write(struct peer *peer, const char *bytes, size_t len)
{
    ssize_t n = peer->half_closed ? 0 : send(peer->fd, bytes, len, 0);

    if (n <= 0)
        return;
    peer->spoke = script_ms;
    peer_sent(peer, bytes, (size_t)n);
}

/* IPv4 and IPv6 in turn. */
static struct sockaddr_storage address_make(unsigned number)
{
    struct sockaddr_storage address = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;

    address.ss_family = number % 2 ? AF_INET : AF_INET6;
    if (number % 2) {
        in->sin_addr.s_addr = htonl(0x0a000000 + number);
        return address;
    }
    in6->sin6_addr.s6_addr[0] = 0x20;
    in6->sin6_addr.s6_addr[14] = (unsigned char)(number >> 8);
    in6->sin6_addr.s6_addr[15] = (unsigned char)number;
    return address;
}

/* There is room for PLACES clients only. */
static void refusal_check(struct peer *peer)
{
    char bytes[64];
    ssize_t n = recv(peer->fd, bytes, sizeof bytes, 0);

    CHECK(n == sizeof SERVER_FULL - 1 && memcmp(bytes, SERVER_FULL, (size_t)n) == 0);
    CHECK(recv(peer->fd, bytes, sizeof bytes, 0) == 0);
    peer_leave(peer);
    peer->name[0] = '\0';
}

static void peer_come(struct peer *peer)
{
    struct sockaddr_storage address = address_make(++script.connected);
    struct endpoint endpoint = endpoint_make(&address);
    bool refused = server.clients_count >= PLACES;
    int size = SOCKET_BUFFER, fds[2];

    peer_reset(peer);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
    CHECK(fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0);
    snprintf(peer->name, sizeof peer->name, "%.*s: ", endpoint.address_len,
             endpoint.text + endpoint.address);
    peer->fd = fds[0];
    peer->begin = peer->last_end = feed_end(&server.feed);
    peer->flowed = peer->spoke = script_ms;
    client_admit(fds[1], &address);
    if (refused)
        refusal_check(peer);
}

/* ---- the script ---- */

/* Lets the server do all there is to do. It may sleep only when nothing is left to do. */
static void server_run(void)
{
    for (int turns = 0;; turns++) {
        struct pollfd loop = {.fd = server.loop, .events = POLLIN};
        int ready = poll(&loop, 1, 0);
        server.now = clock_ms();
        if (ready == 0 && sleep_ms() != 0)
            break;
        CHECK(turns < TURNS_MAX);
        server_turn();
        chat_read();
    }
    for (struct peer *peer = script.peers; peer < script.peers + PEERS; peer++)
        if (!peer->stalled)
            peer_read(peer, SIZE_MAX);
}

/* Grows whenever somebody receives something or leaves. */
static size_t progress(void)
{
    size_t sum = 0;

    for (int i = 0; i < PEERS; i++)
        sum += script.peers[i].got.len + (script.peers[i].fd < 0);
    return sum;
}

/* Until nothing is left to do. Then every reader has all of the chat, or its end. */
static void server_settle(void)
{
    size_t before, want;

    do {
        before = progress();
        server_run();
    } while (progress() != before);
    for (struct peer *peer = script.peers; peer < script.peers + PEERS; peer++) {
        want = GREETING_LEN + script.chat.len - (size_t)(peer->begin - script.begin);
        CHECK(peer->fd < 0 || peer->stalled ||
              (peer->got.len == want && !peer->half_closed));
    }
}

/* That many lines of equal length, as far as the socket takes them. */
static void peer_flood(struct peer *peer, size_t lines, size_t line_len)
{
    static char text[64 * 1024];
    size_t len = 0;

    while (lines-- > 0 && sizeof text - len > line_len) {
        memset(text + len, 'a' + (int)(lines % 26), line_len);
        len += line_len;
        text[len++] = '\n';
    }
    if (script.chat.len < CHAT_MAX)
        peer_write(peer, text, len);
}

/* Waits that many seconds; then those silent for too long are gone. */
static void time_pass(int64_t seconds)
{
    server_settle();
    script_ms += seconds * 1000;
    server_settle();
    for (struct peer *peer = script.peers; peer < script.peers + PEERS; peer++)
        CHECK(peer->fd < 0 || peer->stalled || script_ms - peer->spoke <= IDLE_S * 1000);
}

static void peer_end(struct peer *peer, bool both_ways)
{
    if (!peer->half_closed && peer->line_len > 0)
        peer_owes(peer);
    peer->half_closed = true;
    if (both_ways)
        peer_leave(peer); /* with bytes unread, this is a reset */
    else
        shutdown(peer->fd, SHUT_WR);
}

/* What the script can do; what it should do often is here twice. */
enum action {
    WAIT,
    RUN,
    RUN_2,
    SETTLE,
    SAY,
    SAY_2,
    SAY_3,
    LONG_LINES,
    LINES,
    NEWLINES,
    HALF_CLOSE,
    LEAVE,
    STALL,
    STALL_2,
    READ,
    READ_2,
    ACTIONS
};

/* What a client does. `text` is the rest of the script; returns how much is used. */
static size_t peer_act(struct peer *peer, enum action action, size_t much,
                       const char *text, size_t len)
{
    len = len < much % 32 ? len : much % 32;
    switch (action) {
    case LONG_LINES:
        peer_flood(peer, 1 + much / 64, MESSAGE_MAX - 2 + much % 5);
        return 0;
    case LINES:
        peer_flood(peer, 60, much);
        return 0;
    case NEWLINES:
        peer_flood(peer, 3000, 0);
        return 0;
    case HALF_CLOSE:
    case LEAVE:
        peer_end(peer, action == LEAVE);
        return 0;
    case STALL:
    case STALL_2:
        peer->stalled = !peer->stalled;
        return 0;
    case READ:
    case READ_2:
        peer_read(peer, 1 + 16 * much);
        return 0;
    default:
        peer_write(peer, text, len);
        return len;
    }
}

/* Takes an action off the front of the script; returns how many bytes it was. */
static size_t action_do(const uint8_t *bytes, size_t len)
{
    struct peer *peer = &script.peers[bytes[0] % PEERS];
    enum action action = bytes[0] / PEERS % ACTIONS;

    if (action == WAIT)
        time_pass(bytes[1]);
    else if (action == SETTLE)
        server_settle();
    else if (action == RUN || action == RUN_2)
        server_run();
    else if (peer->fd >= 0)
        return 2 + peer_act(peer, action, bytes[1], (const char *)bytes + 2, len - 2);
    else {
        server_settle(); /* nothing of this place's last client may still be to come */
        peer_come(peer);
    }
    return 2;
}

/* Everybody reads to the end and leaves. */
static void script_end(void)
{
    for (struct peer *peer = script.peers; peer < script.peers + PEERS; peer++) {
        peer->stalled = false;
        if (peer->fd >= 0)
            peer_end(peer, false);
    }
    server_settle();
    for (struct peer *peer = script.peers; peer < script.peers + PEERS; peer++) {
        CHECK(peer->fd < 0);
        CHECK(peer->doomed || peer->appeared == peer->due.len);
        peer_reset(peer);
    }
    CHECK(server.clients_count == 0);
    CHECK(timeouts_first(&server.speakers) == NULL);
    CHECK(timeouts_first(&server.paused) == NULL);
    CHECK(timeouts_first(&server.mute) == NULL);
    CHECK(timeouts_first(&server.flowing) == NULL);
    CHECK(timeouts_first(&server.stalled) == NULL);
    CHECK(timeouts_first(&server.deaf) == NULL);
    CHECK(timeouts_first(&server.closed) == NULL);
}

static void server_start(void)
{
    char *arguments[] = {"chatsrv", "-l", "127.0.0.1", "0", NULL};

    CHECK(freopen("/dev/null", "w", stdout) != NULL); /* the log */
    server_open(4, arguments);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    server.options.clients_max = PLACES;
    server.options.lag_max = LAG_MAX;
    server.stalled.ms = STALL_S * 1000;
    server.speakers.ms = IDLE_S * 1000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (server.loop == 0)
        server_start();
    script.begin = feed_end(&server.feed);
    script.chat.len = script.judged = script.connected = 0;
    cursor_open(&server.feed, &script.reader);
    for (int i = 0; i < PEERS; i++)
        peer_reset(&script.peers[i]);
    while (size >= 2) {
        size_t used = action_do(data, size);
        data += used;
        size -= used;
    }
    script_end();
    cursor_close(&server.feed, &script.reader);
    return 0;
}
