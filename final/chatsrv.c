/*
 * chatsrv - a chat server: each line that a client sends goes to all clients
 *
 * One thread, one event loop. What is to be sent is written once, to the feed (feed.h),
 * and each client is a cursor in it: a broadcast costs one send(2) per client, and a slow
 * reader holds up nobody. Whoever lags too far behind, takes nothing for too long or says
 * nothing for too long is disconnected.
 *
 * Usage: chatsrv -h
 * Systems: Linux (epoll), macOS and BSD (kqueue)
 */
#include "evloop.h"
#include "feed.h"
#include "lines.h"
#include "list.h"
#include "log.h"
#include "net.h"
#include "options.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { READ_MAX = 64 * 1024 };    /* bytes from one client, then the next has its turn */
enum { ACCEPT_MAX = 64 };         /* newcomers, then the clients have their turn */
enum { FLUSH_MAX = 1024 * 1024 }; /* bytes to collect, then they are sent in mid-batch */
enum { ACCEPT_PAUSE_MS = 1000 };  /* how long to wait for a free descriptor */
enum { DRAIN_MS = 1000 };         /* how long the end may wait for slow readers */
enum { LOG_RETRY_MS = 100 };      /* how often to look whether the log is read again */
enum { DESCRIPTORS_KEPT = 16 };   /* for the log, the loop, listeners and the like */
enum { DESCRIPTORS_MACOS = 10240 }; /* the most that macOS grants */

static char GREETING[] = "Welcome to the chat!\n"; /* for an iovec, which is not const */
static const char SERVER_FULL[] = "Server full\n";

enum { GREETING_LEN = sizeof GREETING - 1 };

/* What the loop watches: the first member of whatever its data points to. */
struct watched {
    void (*on_event)(void *owner, int ready);
};

struct listener {
    struct watched watched;
    int fd;
    int interest; /* what the loop watches fd for; 0 in a pause */
};

static struct {
    struct options options;
    int loop;
    struct watched watched; /* the pipe below */
    int signals[2];         /* from the signal handler into the loop */
    struct listener listeners[LISTENERS_MAX];
    size_t listeners_count;
    struct feed feed;         /* what all clients are sent */
    uint64_t flushed;         /* where the feed ended when it was last sent to all */
    struct list_node clients; /* all of them, the first one silent longest */
    struct list_node flowing; /* those that have all of the feed */
    struct list_node stalled; /* those that wait for room, the first one longest */
    struct list_node closed;  /* those to be freed at the end of the batch */
    size_t clients_count;
    int64_t now;       /* monotonic milliseconds, read once a batch */
    int64_t accept_at; /* when a pause in accepting ends; 0: there is none */
    int64_t stop_at;   /* when to stop at the latest; 0: nobody has asked */
    bool log_waits;    /* for somebody to read it */
} server;

struct client {
    struct watched watched;
    int fd;                    /* -1: closed in this batch */
    int interest;              /* what the loop watches fd for; for room while stalled */
    size_t greeting_sent;      /* bytes of the greeting that it has */
    struct feed_cursor cursor; /* what it has of the feed */
    uint64_t end;              /* where its share of the feed ends; UINT64_MAX: not yet */
    struct list_node by_moved; /* in server.flowing, stalled or closed */
    struct list_node by_heard; /* in server.clients */
    int64_t moved;             /* when it last took a byte, or began to stall */
    int64_t heard;             /* when it last sent a byte */
    struct lines lines;        /* what it sends, split into messages */
    struct endpoint endpoint;
};

static int64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Ends a client, from anywhere. Its memory stays until the batch of events is over, in
 * which it may be named once more.
 */
static void client_close(struct client *client, const char *reason)
{
    log_event("connection terminated: %s (%s)", client->endpoint.text, reason);
    evloop_del(server.loop, client->fd, client->interest);
    close(client->fd);
    client->fd = -1;
    cursor_close(&server.feed, &client->cursor);
    list_remove(&client->by_heard);
    list_remove(&client->by_moved);
    list_append(&server.closed, &client->by_moved);
    server.clients_count--;
}

static void clients_free(void)
{
    while (!list_empty(&server.closed)) {
        struct client *client = LIST_OWNER(server.closed.next, struct client, by_moved);
        list_remove(&client->by_moved);
        lines_close(&client->lines);
        free(client);
    }
}

static void client_watch(struct client *client, int interest)
{
    if (evloop_mod(server.loop, client->fd, client->interest, interest, client) < 0)
        client_close(client, strerror(errno));
    else
        client->interest = interest;
}

/* Moves a client between flowing and stalled; changes what the loop watches it for. */
static void client_move(struct client *client, struct list_node *list, int interest)
{
    list_remove(&client->by_moved);
    list_append(list, &client->by_moved);
    client->moved = server.now;
    client_watch(client, interest);
}

/* Sets pieces to what the client is to be sent next, and returns how many bytes that is. */
static size_t client_peek(const struct client *client, struct iovec pieces[FEED_PIECES])
{
    if (client->greeting_sent == GREETING_LEN)
        return cursor_peek(&client->cursor, client->end, pieces);
    pieces[0].iov_base = GREETING + client->greeting_sent;
    pieces[0].iov_len = GREETING_LEN - client->greeting_sent;
    pieces[1].iov_len = 0;
    return pieces[0].iov_len;
}

static void client_advance(struct client *client, size_t len)
{
    if (client->greeting_sent < GREETING_LEN)
        client->greeting_sent += len;
    else
        cursor_advance(&server.feed, &client->cursor, len);
}

/* Sends the pieces with one call: send(2) where it will do, since it is a bit cheaper. */
static ssize_t pieces_send(int fd, struct iovec pieces[FEED_PIECES])
{
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = FEED_PIECES};

    if (pieces[1].iov_len == 0)
        return send(fd, pieces[0].iov_base, pieces[0].iov_len, 0);
    return sendmsg(fd, &message, 0);
}

/* Sends the client all that it is to have, or as much as its socket has room for. */
static void client_flush(struct client *client)
{
    int stalled = client->interest & EVLOOP_WRITE;
    struct iovec pieces[FEED_PIECES];
    size_t len;

    while ((len = client_peek(client, pieces)) > 0) {
        ssize_t n = pieces_send(client->fd, pieces);
        if (n > 0)
            client_advance(client, (size_t)n);
        else if (n < 0 && errno != EAGAIN && errno != EINTR) {
            client_close(client, strerror(errno));
            return;
        }
        if (n < (ssize_t)len) { /* no more room: the loop will tell when there is */
            if (n > 0 || !stalled)
                client_move(client, &server.stalled, client->interest | EVLOOP_WRITE);
            return;
        }
    }
    if (cursor_position(&client->cursor) == client->end)
        client_close(client, "end of file");
    else if (stalled)
        client_move(client, &server.flowing, client->interest & ~EVLOOP_WRITE);
}

/* Disconnects those that lag too far behind. */
static void laggards_close(void)
{
    struct feed_cursor *cursor;
    char reason[64];

    while ((cursor = feed_laggard(&server.feed, server.options.lag_max)) != NULL) {
        snprintf(reason, sizeof reason, "lagged more than %llu bytes",
                 (unsigned long long)server.options.lag_max);
        client_close(LIST_OWNER(cursor, struct client, cursor), reason);
    }
}

/* Sends to everybody what has come since the last time. Who is stalled has to wait. */
static void clients_flush(void)
{
    struct list_node *node, *next;

    for (node = server.flowing.next; node != &server.flowing; node = next) {
        next = node->next;
        client_flush(LIST_OWNER(node, struct client, by_moved));
    }
    server.flushed = feed_end(&server.feed);
    laggards_close();
}

static void on_client(void *owner, int ready);

/* Makes a client of a connection that has just been accepted, and greets it. */
static void client_open(int fd, const struct endpoint *endpoint)
{
    struct client *client = calloc(1, sizeof *client);

    if (client == NULL || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        evloop_add(server.loop, fd, EVLOOP_READ, client) < 0) {
        log_event("refused connection: %s (%s)", endpoint->text, strerror(errno));
        free(client);
        close(fd);
        return;
    }
    log_event("accepted connection: %s", endpoint->text);
    client->watched.on_event = on_client;
    client->fd = fd;
    client->interest = EVLOOP_READ;
    client->end = UINT64_MAX;
    client->heard = client->moved = server.now;
    client->endpoint = *endpoint;
    cursor_open(&server.feed, &client->cursor);
    list_append(&server.clients, &client->by_heard);
    list_append(&server.flowing, &client->by_moved);
    server.clients_count++;
    client_flush(client);
}

/* Tells a newcomer that there is no place for it. */
static void client_refuse(int fd, const struct endpoint *endpoint)
{
    char unread[READ_MAX];

    log_event("refused connection: %s (server full)", endpoint->text);
    /* Closed with bytes unread, the connection would be reset before the client reads. */
    if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
        send(fd, SERVER_FULL, sizeof SERVER_FULL - 1, 0) > 0 &&
        shutdown(fd, SHUT_WR) == 0)
        (void)recv(fd, unread, sizeof unread, 0);
    close(fd);
}

/* Changes what the loop watches the listeners for. If it fails, a pause begins again. */
static void listeners_watch(int interest)
{
    server.accept_at = interest == 0 ? server.now + ACCEPT_PAUSE_MS : 0;
    for (size_t i = 0; i < server.listeners_count; i++) {
        struct listener *it = &server.listeners[i];
        if (evloop_mod(server.loop, it->fd, it->interest, interest, it) == 0)
            it->interest = interest;
        else
            server.accept_at = server.now + ACCEPT_PAUSE_MS;
    }
}

static void on_newcomer(int fd, const struct sockaddr_storage *address)
{
    struct endpoint endpoint = endpoint_make(address);

    if (server.clients_count < server.options.clients_max)
        client_open(fd, &endpoint);
    else
        client_refuse(fd, &endpoint);
}

/*
 * Accepts those who wait, but only so many. Without a free descriptor they would be
 * reported over and over, so the loop then looks away from the listeners for a while.
 */
static void on_connection(void *owner, int ready)
{
    const struct listener *listener = owner;

    (void)ready;
    for (int i = 0; i < ACCEPT_MAX && server.stop_at == 0; i++) {
        struct sockaddr_storage address = {0};
        socklen_t len = sizeof address;
        int fd = accept(listener->fd, (struct sockaddr *)&address, &len);

        if (fd >= 0) {
            on_newcomer(fd, &address);
        } else if (errno == EAGAIN || errno == EINTR) {
            return;
        } else if (errno != ECONNABORTED) { /* that one has left already */
            log_event("accept: %s; trying again in a second", strerror(errno));
            listeners_watch(0);
            return;
        }
    }
}

/* Logs a message and writes it to the feed. Returns -1 if there is no memory for that. */
static int on_message(const struct client *client, struct slice text)
{
    const struct endpoint *endpoint = &client->endpoint;

    log_message(endpoint->text, text.bytes, text.len);
    if (feed_reserve(&server.feed, sizeof endpoint->text + text.len) < 0)
        return -1;
    if (!server.options.bare) {
        feed_append(&server.feed, endpoint->text + endpoint->address,
                    endpoint->address_len);
        feed_append(&server.feed, ": ", 2);
    }
    feed_append(&server.feed, text.bytes, text.len);
    feed_append(&server.feed, "\n", 1);
    return 0;
}

static void on_bytes(struct client *client, const char *bytes, size_t len)
{
    struct slice input = {bytes, len}, message;
    int got;

    client->heard = server.now;
    list_remove(&client->by_heard);
    list_append(&server.clients, &client->by_heard);
    while ((got = lines_next(&client->lines, &input, &message)) > 0)
        if (on_message(client, message) < 0)
            break;
    if (got != 0)
        client_close(client, "out of memory");
}

/* The client will send no more. It still gets all that it was to have until now. */
static void on_end(struct client *client)
{
    struct slice message;

    if (lines_end(&client->lines, &message) && on_message(client, message) < 0) {
        client_close(client, "out of memory");
        return;
    }
    client->end = feed_end(&server.feed);
    client_watch(client, client->interest & ~EVLOOP_READ);
    if (client->fd >= 0)
        client_flush(client);
}

/* One read an event: what is left is reported again, after the others had their turn. */
static void on_readable(struct client *client)
{
    char bytes[READ_MAX];
    ssize_t n = recv(client->fd, bytes, sizeof bytes, 0);

    if (n > 0)
        on_bytes(client, bytes, (size_t)n);
    else if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return; /* nothing has come yet: the loop will tell */
    else if (n == 0 && client->end == UINT64_MAX)
        on_end(client);
    else /* an error, or a hang-up after the end */
        client_close(client, strerror(n == 0 ? ECONNRESET : errno));
}

/* The first signal lets slow readers catch up for a moment; a second one ends that. */
static void on_signal(void *owner, int ready)
{
    char bytes[16];
    ssize_t n = read(server.signals[0], bytes, sizeof bytes);

    (void)owner;
    (void)ready;
    if (n <= 0)
        return;
    server.stop_at = server.now + (server.stop_at == 0 && n == 1 ? DRAIN_MS : 0);
    listeners_watch(0);
    server.accept_at = 0;
    while (server.listeners_count > 0)
        close(server.listeners[--server.listeners_count].fd);
}

static void on_client(void *owner, int ready)
{
    struct client *client = owner;

    if (client->fd >= 0 && ready & EVLOOP_WRITE)
        client_flush(client);
    if (client->fd >= 0 && ready & EVLOOP_READ)
        on_readable(client);
}

/* Disconnects a client whose time is over. */
static void client_expire(struct client *client, const char *what, int64_t ms)
{
    char reason[64];

    snprintf(reason, sizeof reason, "%s for %lld s", what, (long long)ms / 1000);
    client_close(client, reason);
}

/* Those whose time is over are first in their lists, so nobody else is looked at. */
static void deadlines_check(void)
{
    const int64_t idle = server.options.idle_ms, stall = server.options.stall_ms;

    while (idle > 0 && !list_empty(&server.clients)) {
        struct client *client = LIST_OWNER(server.clients.next, struct client, by_heard);
        if (server.now < client->heard + idle)
            break;
        client_expire(client, "idle", idle);
    }
    while (stall > 0 && !list_empty(&server.stalled)) {
        struct client *client = LIST_OWNER(server.stalled.next, struct client, by_moved);
        if (server.now < client->moved + stall)
            break;
        client_expire(client, "took no byte", stall);
    }
    if (server.accept_at > 0 && server.now >= server.accept_at)
        listeners_watch(EVLOOP_READ);
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long the loop may sleep: milliseconds until the first deadline, or -1. */
static int sleep_ms(void)
{
    const int64_t idle = server.options.idle_ms, stall = server.options.stall_ms;
    int64_t next = INT64_MAX;

    if (idle > 0 && !list_empty(&server.clients))
        next = LIST_OWNER(server.clients.next, struct client, by_heard)->heard + idle;
    if (stall > 0 && !list_empty(&server.stalled))
        next =
            sooner(next, LIST_OWNER(server.stalled.next, struct client, by_moved)->moved +
                             stall);
    if (server.accept_at > 0)
        next = sooner(next, server.accept_at);
    if (server.stop_at > 0)
        next = sooner(next, server.stop_at);
    if (server.log_waits)
        next = sooner(next, server.now + LOG_RETRY_MS);
    if (next == INT64_MAX)
        return -1;
    return next <= server.now ? 0 : (int)sooner(next - server.now, INT_MAX);
}

/* Raises the limit of descriptors and returns how many clients there may be. */
static size_t clients_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        err(1, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        /* macOS names infinity for a limit, and refuses it. */
        limit.rlim_cur = DESCRIPTORS_MACOS;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            err(1, "setrlimit");
    }
    if (limit.rlim_cur <= DESCRIPTORS_KEPT)
        errx(1, "a limit of %llu descriptors is too low",
             (unsigned long long)limit.rlim_cur);
    return (size_t)limit.rlim_cur - DESCRIPTORS_KEPT;
}

static void signal_handle(int signal)
{
    int saved = errno;

    (void)signal;
    (void)!write(server.signals[1], "", 1); /* full: enough signals wait there already */
    errno = saved;
}

/* Lets the loop hear of signals, also of one that comes just before it goes to sleep. */
static void signals_open(void)
{
    struct sigaction action = {.sa_handler = signal_handle, .sa_flags = SA_RESTART};

    signal(SIGPIPE, SIG_IGN); /* to send to a departed client is just an error */
    if (pipe(server.signals) < 0)
        err(1, "pipe");
    if (fcntl(server.signals[0], F_SETFL, O_NONBLOCK) < 0 ||
        fcntl(server.signals[1], F_SETFL, O_NONBLOCK) < 0)
        err(1, "fcntl");
    server.watched.on_event = on_signal;
    if (evloop_add(server.loop, server.signals[0], EVLOOP_READ, &server.watched) < 0)
        err(1, "evloop_add");
    if (sigaction(SIGINT, &action, NULL) < 0 || sigaction(SIGTERM, &action, NULL) < 0)
        err(1, "sigaction");
}

static void listeners_open(void)
{
    int fds[LISTENERS_MAX];

    server.listeners_count = net_listen(server.options.address, server.options.port, fds);
    for (size_t i = 0; i < server.listeners_count; i++) {
        struct sockaddr_storage address = net_address(fds[i]);
        struct endpoint endpoint = endpoint_make(&address);
        server.listeners[i].watched.on_event = on_connection;
        server.listeners[i].fd = fds[i];
        log_event("listening on %s", endpoint.text);
    }
    listeners_watch(EVLOOP_READ);
}

static void server_open(int argc, char **argv)
{
    size_t limit;

    server.options = options_parse(argc, argv);
    limit = clients_limit();
    if (server.options.clients_max > limit)
        server.options.clients_max = limit;
    list_init(&server.clients);
    list_init(&server.flowing);
    list_init(&server.stalled);
    list_init(&server.closed);
    if (feed_open(&server.feed) < 0)
        err(1, "malloc");
    if ((server.loop = evloop_open()) < 0)
        err(1, "evloop_open");
    server.now = clock_ms();
    signals_open();
    listeners_open();
}

static bool server_stopped(void)
{
    return server.stop_at > 0 &&
           (list_empty(&server.stalled) || server.now >= server.stop_at);
}

/* One batch of events: read and accept; then send, once to each client; then the rest. */
static void server_turn(void)
{
    struct evloop_event events[EVLOOP_BATCH];
    int n = evloop_wait(server.loop, events, EVLOOP_BATCH, sleep_ms());

    if (n < 0)
        err(1, "evloop_wait");
    server.now = clock_ms();
    for (int i = 0; i < n; i++) {
        struct watched *watched = events[i].data;
        watched->on_event(watched, events[i].ready);
        if (feed_end(&server.feed) - server.flushed >= FLUSH_MAX)
            clients_flush();
    }
    if (feed_end(&server.feed) != server.flushed)
        clients_flush();
    deadlines_check();
    clients_free();
    server.log_waits = log_flush();
}

static void server_close(void)
{
    while (!list_empty(&server.clients))
        client_close(LIST_OWNER(server.clients.next, struct client, by_heard),
                     "server stopping");
    clients_free();
    feed_close(&server.feed);
    close(server.loop);
    while (log_flush() && clock_ms() < server.stop_at) /* its reader has that time, too */
        poll(NULL, 0, LOG_RETRY_MS);
}

int main(int argc, char **argv)
{
    server_open(argc, argv);
    server.log_waits = log_flush();
    while (!server_stopped())
        server_turn();
    server_close();
    return 0;
}
