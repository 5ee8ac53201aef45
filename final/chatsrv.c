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
#include "chatsrv.h"
#include "evloop.h"
#include "log.h"
#include "process.h"

#include <err.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { READ_MAX = 64 * 1024 };    /* bytes from one client, then the next has its turn */
enum { FLUSH_MAX = 1024 * 1024 }; /* bytes to collect, then they are sent in mid-batch */
enum { DRAIN_MS = 1000 };         /* how long the end may wait for slow readers */
enum { OTHERS_MAX = 16 };         /* descriptors of listeners, signals and the room */

static char GREETING[] = "Welcome to the chat!\n"; /* for an iovec, which is not const */
static const char SERVER_FULL[] = "Server full\n";

enum { GREETING_LEN = sizeof GREETING - 1 };

static struct server server;

static int64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The clients that these stand for; NULL for NULL. */
static struct client *moved(struct timeout *timeout)
{
    return timeout == NULL ? NULL : LIST_OWNER(timeout, struct client, by_moved);
}

static struct client *heard(struct timeout *timeout)
{
    return timeout == NULL ? NULL : LIST_OWNER(timeout, struct client, by_heard);
}

/* ---- a client's life ---- */

/* Whoever comes back from the same address finds the bucket as it is left now. */
static void address_leave(struct address *address, int64_t rate_full_at)
{
    if (address == NULL)
        return;
    if (address->rate_full_at < rate_full_at)
        address->rate_full_at = rate_full_at;
    addresses_leave(&server.addresses, address,
                    rate_fills(address->rate_full_at, server.now), server.now);
}

/*
 * Ends a client, from anywhere. Its memory stays until the batch of events is over, in
 * which it may be named once more.
 */
static void client_close(struct client *client, const char *reason)
{
    log_connection("connection terminated", client->endpoint.text, reason);
    evloop_del(server.loop, client->fd, client->interest);
    close(client->fd);
    client->fd = -1;
    if (!client->deaf)
        cursor_close(&server.feed, &client->cursor);
    address_leave(client->address, client->rate_full_at);
    timeout_end(&client->by_heard);
    timeout_end(&client->by_moved);
    timeout_begin(&server.closed, &client->by_moved, server.now);
    server.clients_count--;
}

static void clients_free(void)
{
    struct client *client;

    while ((client = moved(timeouts_first(&server.closed))) != NULL) {
        timeout_end(&client->by_moved);
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

/* Moves a client between the lists by_moved; changes what the loop watches it for. */
static void client_move(struct client *client, struct timeouts *list, int interest)
{
    timeout_end(&client->by_moved);
    timeout_begin(list, &client->by_moved, server.now);
    client_watch(client, interest);
}

/*
 * Moves a client between the lists by_heard. What it said may have come long after this
 * batch of events began, if we were stopped in it.
 */
static void client_hear(struct client *client, struct timeouts *list)
{
    server.now = clock_ms();
    timeout_end(&client->by_heard);
    timeout_begin(list, &client->by_heard, server.now);
}

/* ---- sending ---- */

/* Sends nothing more to a client. What it says is still read, up to its end. */
static void client_deafen(struct client *client)
{
    shutdown(client->fd, SHUT_WR); /* it sees the end, if it is still there */
    cursor_close(&server.feed, &client->cursor);
    client->deaf = true;
    client_move(client, &server.deaf, client->interest & ~EVLOOP_WRITE);
}

/* Sending to the client has failed. What the kernel has of it was acknowledged to it. */
static void client_fail(struct client *client, int error)
{
    client->send_error = error;
    if (client->input_ended)
        client_close(client, strerror(error));
    else
        client_deafen(client);
}

/* Sets pieces to what the client is to be sent next; returns how many bytes that is. */
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

/* There is no more room: the loop will tell when there is. */
static void client_stall(struct client *client, bool progress)
{
    if (!progress && client->interest & EVLOOP_WRITE)
        return;
    client->unacknowledged = net_unacknowledged(client->fd);
    client_move(client, &server.stalled, client->interest | EVLOOP_WRITE);
}

/* The client has all of the feed, or of its share of it. */
static void client_sent_all(struct client *client)
{
    if (cursor_position(&client->cursor) != client->end) {
        if (client->interest & EVLOOP_WRITE)
            client_move(client, &server.flowing, client->interest & ~EVLOOP_WRITE);
    } else if (client->input_ended) {
        client_close(client, "end of file");
    } else {
        client_deafen(client); /* with input unread, close(2) would be a reset */
    }
}

/* Sends the client all that it is to have, or as much as its socket has room for. */
static void client_flush(struct client *client)
{
    struct iovec pieces[FEED_PIECES];
    bool progress = false;
    size_t len;

    while ((len = client_peek(client, pieces)) > 0) {
        ssize_t n = net_send(client->fd, pieces);
        if (n > 0) {
            progress = true;
            client_advance(client, (size_t)n);
        } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
            client_fail(client, errno);
            return;
        }
        if (n < (ssize_t)len) {
            client_stall(client, progress);
            return;
        }
    }
    client_sent_all(client);
}

/* Disconnects those that lag too far behind, and have made no room since they stalled. */
static void laggards_close(void)
{
    const uint64_t max = server.options.lag_max;
    struct feed_cursor *cursor;
    char reason[64];

    while ((cursor = feed_laggard(&server.feed, max)) != NULL) {
        struct client *client = LIST_OWNER(cursor, struct client, cursor);

        client_flush(client);
        if (feed_laggard(&server.feed, max) != cursor)
            continue;
        snprintf(reason, sizeof reason, "lagged more than %llu bytes",
                 (unsigned long long)max);
        client_close(client, reason);
    }
}

/* Sends to everybody what has come since the last time. Stalled clients have to wait. */
static void clients_flush(void)
{
    struct list_node *node, *next;

    for (node = server.flowing.list.next; node != &server.flowing.list; node = next) {
        next = node->next;
        client_flush(LIST_OWNER(node, struct client, by_moved.node));
    }
    server.flushed = feed_end(&server.feed);
    laggards_close();
}

/* ---- reading ---- */

/* Logs a message and writes it to the feed. Returns -1 if there is no memory for that. */
static int on_message(struct client *client, struct slice text)
{
    const struct endpoint *endpoint = &client->endpoint;
    struct slice sender = {endpoint->text + endpoint->address,
                           server.options.bare ? 0 : endpoint->address_len};

    client->rate_full_at = rate_spend(server.rate, client->rate_full_at, server.now);
    if (server.options.quiet)
        log_event("message from %s, %zu bytes", endpoint->text, text.len);
    else
        log_message(endpoint->text, text.bytes, text.len);
    if (server.room != NULL) {
        int status = room_say(server.room, sender, text);
        client->last_word = room_said(server.room);
        return status;
    }
    if (feed_reserve(&server.feed, sizeof endpoint->text + text.len) < 0)
        return -1;
    if (sender.len > 0) {
        feed_append(&server.feed, sender.bytes, sender.len);
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

    client_hear(client, &server.speakers);
    while ((got = lines_next(&client->lines, &input, &message)) > 0)
        if (on_message(client, message) < 0)
            break;
    if (got != 0)
        client_close(client, "out of memory");
}

/*
 * Takes no more messages from the client. It gets all that has come until now, and in a
 * room what comes until its own last word is back.
 */
static void client_mute(struct client *client)
{
    bool waits = client->last_word > room_heard(server.room);

    client_hear(client, waits ? &server.leaving : &server.mute);
    client->end = waits ? END_LATER : feed_end(&server.feed);
}

/* The client will send no more. It still gets all that it was to have until now. */
static void on_end(struct client *client)
{
    /*
     * A broken connection may have broken the line as well. But EPIPE from send(2) says
     * that the client's own end had come before the reset: then the line is whole.
     */
    bool line_whole = client->send_error == 0 || client->send_error == EPIPE;
    bool may_have_tail = client->end == UINT64_MAX && line_whole;
    struct slice message;

    client->input_ended = true;
    if (may_have_tail && lines_end(&client->lines, &message) &&
        on_message(client, message) < 0) {
        client_close(client, "out of memory");
    } else if (client->deaf) {
        client_close(client, client->send_error != 0 ? strerror(client->send_error)
                                                     : "server stopping");
    } else {
        if (client->end == UINT64_MAX)
            client_mute(client);
        client_watch(client, client->interest & ~EVLOOP_READ);
        if (client->fd >= 0)
            client_flush(client);
    }
}

/* Reads no more from the client for a moment. What it sends waits in its own socket. */
static void client_pause(struct client *client)
{
    client_hear(client, &server.paused);
    client_watch(client, client->interest & ~EVLOOP_READ);
}

/*
 * Like recv(2), but takes no more messages than the client may say now; the rest stays in
 * the socket. If that is none, the client is paused, and the answer is EAGAIN.
 */
static ssize_t client_recv(struct client *client, char bytes[READ_MAX])
{
    bool limited = server.options.rate > 0 && !server.stopping;
    size_t allowed = rate_allows(server.rate, client->rate_full_at, server.now);
    ssize_t n;

    if ((limited && allowed == 0) || (!server.stopping && room_is_full(server.room))) {
        client_pause(client);
        errno = EAGAIN;
        return -1;
    }
    n = net_recv(client->fd, bytes, READ_MAX, limited ? MSG_PEEK : 0);
    if (n <= 0 || !limited)
        return n;
    return net_recv(client->fd, bytes,
                    lines_fit(&client->lines, bytes, (size_t)n, allowed), 0);
}

/* One read per event: what is left is reported again, after the others had their turn. */
static void on_readable(struct client *client)
{
    char bytes[READ_MAX];
    ssize_t n = client_recv(client, bytes);

    if (n > 0 && client->end == UINT64_MAX)
        on_bytes(client, bytes, (size_t)n);
    else if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return; /* too late, since we are stopping; or nothing has come yet */
    else if (n == 0 && !client->input_ended)
        on_end(client);
    else /* an error, or a hang-up after the end */
        client_close(client, strerror(n == 0 ? ECONNRESET : errno));
}

static void on_client(void *owner, int ready)
{
    struct client *client = owner;

    if (client->fd >= 0 && ready & EVLOOP_WRITE && !client->deaf)
        client_flush(client);
    /* epoll reports a hang-up whatever the interest: not so in a pause. */
    if (client->fd >= 0 && ready & EVLOOP_READ &&
        (client->interest & EVLOOP_READ || client->input_ended))
        on_readable(client);
}

/* ---- the room ---- */

/* Nobody may go on as if nothing were missing. */
static void on_missed(const char *reason)
{
    struct client *client;
    size_t count = 0;

    for (; (client = heard(timeouts_first(&server.speakers))) != NULL ||
           (client = heard(timeouts_first(&server.paused))) != NULL ||
           (client = heard(timeouts_first(&server.leaving))) != NULL;
         count++)
        client_close(client, "missed messages of the room");
    log_event("missed messages of the room: %zu client%s disconnected (%s)", count,
              count == 1 ? "" : "s", reason);
}

/*
 * Lets the room do what is due; not yet if messages are on their way in it and everybody
 * has to be sent something first: what comes meanwhile is to be in the same entry.
 * A leaving client has its share once its last word has come back.
 */
static void room_check(void)
{
    struct client *client;

    server.room_waits = !server.room_waits && feed_end(&server.feed) != server.flushed &&
                        room_said(server.room) != room_heard(server.room);
    if (server.room_waits)
        return;
    room_turn(server.room);
    while ((client = heard(timeouts_first(&server.leaving))) != NULL &&
           client->last_word <= room_heard(server.room)) {
        client_hear(client, &server.mute);
        client->end = feed_end(&server.feed);
        if (!client->deaf)
            client_flush(client);
    }
}

/* ---- newcomers ---- */

/* Tells a newcomer that there is no place for it. */
static void client_refuse(int fd, const struct endpoint *endpoint, const char *reason)
{
    log_connection("refused connection", endpoint->text, reason);
    net_farewell(fd, SERVER_FULL, sizeof SERVER_FULL - 1);
}

/* Makes a client of a connection that has just been accepted, and greets it. */
static void client_open(int fd, const struct endpoint *endpoint, struct address *address)
{
    struct client *client = calloc(1, sizeof *client);

    if (client == NULL || evloop_add(server.loop, fd, EVLOOP_READ, client) < 0) {
        log_connection("refused connection", endpoint->text, strerror(errno));
        address_leave(address, 0);
        free(client);
        close(fd);
        return;
    }
    log_connection("accepted connection", endpoint->text, NULL);
    client->watched.on_event = on_client;
    client->fd = fd;
    client->interest = EVLOOP_READ;
    client->end = UINT64_MAX;
    client->address = address;
    client->rate_full_at = address != NULL ? address->rate_full_at : 0;
    client->endpoint = *endpoint;
    cursor_open(&server.feed, &client->cursor);
    timeout_begin(&server.speakers, &client->by_heard, server.now);
    timeout_begin(&server.flowing, &client->by_moved, server.now);
    server.clients_count++;
    client_flush(client);
}

static void client_admit(int fd, const struct sockaddr_storage *from)
{
    const size_t max = server.options.neighbours;
    bool counted = max < SIZE_MAX || server.options.rate > 0;
    struct endpoint endpoint = endpoint_make(from);
    struct address *address = NULL;

    if (server.clients_count >= server.options.clients_max)
        client_refuse(fd, &endpoint, "server full");
    else if (counted && (address = addresses_enter(&server.addresses, from, max)) == NULL)
        client_refuse(fd, &endpoint,
                      errno == EUSERS ? "too many from its address" : strerror(errno));
    else
        client_open(fd, &endpoint, address);
}

/* ---- deadlines ---- */

/* Disconnects a client whose time is over. */
static void client_expire(struct client *client, const char *what, int64_t ms)
{
    char reason[64];

    snprintf(reason, sizeof reason, "%s for %lld s", what, (long long)ms / 1000);
    client_close(client, reason);
}

static void idle_check(int64_t now)
{
    struct client *client;

    while ((client = heard(timeouts_due(&server.speakers, now))) != NULL)
        client_expire(client, "idle", server.speakers.ms);
}

static void stalled_check(int64_t now)
{
    struct client *client;

    while ((client = moved(timeouts_due(&server.stalled, now))) != NULL) {
        /* The system does not tell of a little room. */
        if (net_unacknowledged(client->fd) < client->unacknowledged)
            client_stall(client, true);
        else
            client_expire(client, "took no byte", server.stalled.ms);
    }
}

/* Lets those speak again whose pause is over. */
static void paused_check(void)
{
    struct client *client;

    while ((client = heard(timeouts_due(&server.paused, server.now))) != NULL) {
        client_hear(client, &server.speakers);
        client_watch(client, client->interest | EVLOOP_READ);
    }
}

/*
 * A client is judged by what the kernel holds for it, not by when we come to look: we may
 * have been stopped ourselves. So its time must have been over when a round of waits
 * began, in which all had their turn. A batch that is not full ends a round, and so do as
 * many events as there were to report when it began, since the loop lets nobody have two
 * turns before others had one.
 */
static void deadlines_check(int events)
{
    server.round_events += (size_t)events;
    if (events < EVLOOP_BATCH || server.round_events >= server.round_events_max) {
        stalled_check(server.round_began);
        idle_check(server.round_began);
        arrivals_check(&server.arrivals, server.round_began);
        server.round_events = 0;
    }
    paused_check();
    listeners_check(&server.listeners);
    addresses_check(&server.addresses, server.now);
}

/* How long the loop may sleep: milliseconds until the first deadline, or -1. */
static int sleep_ms(void)
{
    int64_t next = listeners_next(&server.listeners);

    if (server.room_waits)
        return 0;
    next = sooner(next, arrivals_next(&server.arrivals));
    next = sooner(next, room_next(server.room));
    next = sooner(next, timeouts_next(&server.speakers));
    next = sooner(next, timeouts_next(&server.paused));
    next = sooner(next, timeouts_next(&server.stalled));
    if (server.stop_at > 0)
        next = sooner(next, server.stop_at);
    if (server.log_retry_ms >= 0)
        next = sooner(next, server.now + server.log_retry_ms);
    if (next == INT64_MAX)
        return -1;
    return next <= server.now ? 0 : (int)sooner(next - server.now, INT_MAX);
}

/* ---- the server ---- */

/* Gives slow readers a moment to catch up, from now on; none after a second signal. */
static void drain_begin(void)
{
    bool at_once = process_signal() == PROCESS_END;

    server.stop_at = at_once ? 1 : clock_ms() + DRAIN_MS;
}

/* After a pause, of which SIGCONT tells, the moment begins anew. */
static void on_signal(void *owner, int ready)
{
    (void)owner;
    (void)ready;
    if (process_signal() != PROCESS_RUN)
        drain_begin();
}

/* Takes no more newcomers and messages. Everybody still gets all that has been said. */
static void server_stop(void)
{
    struct client *client;

    server.stopping = true;
    listeners_close(&server.listeners);
    arrivals_close(&server.arrivals);
    while ((client = heard(timeouts_first(&server.paused))) != NULL ||
           (client = heard(timeouts_first(&server.speakers))) != NULL) {
        client->last_word = room_said(server.room);
        client_mute(client);
        client_watch(client, client->interest | EVLOOP_READ);
    }
    clients_flush();
    drain_begin(); /* what has been done since the signal may have taken long */
}

static bool server_stopped(void)
{
    bool all_said = room_heard(server.room) == room_said(server.room);
    bool round_over = server.round_events == 0;
    bool time_over = round_over && server.round_began >= server.stop_at;

    return server.stop_at > 0 && (time_over || (server.clients_count == 0 && all_said));
}

static void server_open(int argc, char **argv)
{
    process_open();
    server.options = options_parse(argc, argv);
    server.options.clients_max = process_clients(server.options.clients_max);
    server.rate = rate_make(server.options.rate);
    log_open();
    timeouts_init(&server.flowing, 0);
    timeouts_init(&server.stalled, server.options.stall_ms);
    timeouts_init(&server.deaf, 0);
    timeouts_init(&server.closed, 0);
    timeouts_init(&server.speakers, server.options.idle_ms);
    timeouts_init(&server.paused, rate_pause_ms(server.rate));
    timeouts_init(&server.leaving, 0);
    timeouts_init(&server.mute, 0);
    if (feed_open(&server.feed) < 0 ||
        addresses_open(&server.addresses, 1000 * RATE_BURST_S) < 0)
        err(1, "malloc");
    if ((server.loop = evloop_open()) < 0)
        err(1, "evloop_open");
    server.now = clock_ms();
    server.signals = process_signals();
    server.watched.on_event = on_signal;
    if (evloop_add(server.loop, server.signals, EVLOOP_READ, &server.watched) < 0)
        err(1, "evloop_add");
    server.arrivals.on_newcomer = client_admit;
    server.arrivals.loop = server.loop;
    server.arrivals.now = &server.now;
    arrivals_open(&server.arrivals);
    server.listeners.on_newcomer = client_admit;
    server.listeners.arrivals = server.options.proxied ? &server.arrivals : NULL;
    server.listeners.loop = server.loop;
    server.listeners.now = &server.now;
    server.room = room_open(&server.options.room, server.loop, &server.feed, on_missed,
                            &server.now);
    server.log_retry_ms = -1;
}

/* A descriptor may have two events: with kqueue, to read and to write are one each. */
static void round_begin(void)
{
    server.round_began = server.now;
    server.round_events_max =
        2 * (server.clients_count + server.arrivals.count + OTHERS_MAX);
}

/* One batch of events: read and accept; then send, once to each client; then the rest. */
static void server_turn(void)
{
    struct evloop_event events[EVLOOP_BATCH];
    int n;

    server.now = clock_ms();
    if (server.round_events == 0)
        round_begin();
    n = evloop_wait(server.loop, events, EVLOOP_BATCH, sleep_ms());
    if (n < 0)
        err(1, "evloop_wait");
    server.now = clock_ms();
    for (int i = 0; i < n; i++) {
        struct watched *watched = events[i].data;
        server.now = clock_ms(); /* the one before may have taken long */
        watched->on_event(watched, events[i].ready);
        if (feed_end(&server.feed) - server.flushed >= FLUSH_MAX)
            clients_flush();
    }
    if (server.stop_at > 0 && !server.stopping)
        server_stop();
    room_check();
    if (feed_end(&server.feed) != server.flushed)
        clients_flush();
    deadlines_check(n);
    clients_free();
    server.log_retry_ms = log_flush();
}

/* Newcomers are let in once there is a chat. */
static void server_listen(void)
{
    while (!room_is_joined(server.room) && server.stop_at == 0)
        server_turn();
    if (server.stop_at > 0)
        return;
    listeners_open(&server.listeners, server.options.address, server.options.port);
    server.log_retry_ms = log_flush();
}

/* Gives the log's reader a second. Another signal ends that. */
static void log_drain(int64_t until)
{
    struct pollfd signals = {.fd = server.signals, .events = POLLIN};
    int retry_ms;

    while ((retry_ms = log_flush()) >= 0 && clock_ms() < until &&
           process_signal() != PROCESS_END)
        poll(&signals, 1, retry_ms);
}

static void server_close(void)
{
    struct client *client;
    int64_t until = clock_ms() + DRAIN_MS;

    log_drain(until); /* the last lines are those that a reader looks for */
    while ((client = heard(timeouts_first(&server.mute))) != NULL ||
           (client = heard(timeouts_first(&server.leaving))) != NULL)
        client_close(client, "server stopping");
    clients_free();
    room_close(server.room);
    feed_close(&server.feed);
    addresses_close(&server.addresses);
    close(server.loop);
    log_drain(until);
}

int main(int argc, char **argv)
{
    server_open(argc, argv);
    server_listen();
    while (!server_stopped())
        server_turn();
    server_close();
    return 0;
}
