/*
 * redis - see redis.h. Systems: Linux, macOS and the BSDs.
 */
#include "redis.h"

#include "evloop.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAUSE_MIN_MS = 100, PAUSE_MAX_MS = 5000 }; /* before dialling again */
enum { AUTH_MAX = 3 * URL_MAX };                  /* bytes of the command */

static struct slice slice_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

/* ---- Where ---- */

static const char *addresses_find(const char *host, const char *port, int flags,
                                  struct sockaddr_storage *to, size_t max, size_t *count)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags}, *found;
    int error = getaddrinfo(host, port, &hints, &found);

    *count = 0;
    if (error != 0)
        return error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error);
    for (struct addrinfo *at = found; at != NULL && *count < max; at = at->ai_next) {
        to[*count] = (struct sockaddr_storage){0};
        memcpy(&to[(*count)++], at->ai_addr, at->ai_addrlen);
    }
    freeaddrinfo(found);
    return NULL;
}

const char *redis_lookup(struct redis_server *server)
{
    return addresses_find(server->url.host, server->url.port, 0, server->addresses,
                          REDIS_ADDRESSES_MAX, &server->count);
}

/* "MOVED 3999 192.0.2.7:6381": a slot, then where it is now. */
bool redis_move(struct redis_server *server, struct slice error)
{
    char text[REDIS_REASON_MAX], *host, *colon;
    size_t count = 0;

    if (error.len >= sizeof text)
        return false;
    memcpy(text, error.bytes, error.len);
    text[error.len] = '\0';
    host = strrchr(text, ' ');
    colon = strrchr(text, ':');
    if (host == NULL || colon == NULL || colon < host)
        return false;
    *colon = '\0';
    (void)addresses_find(host + 1, colon + 1, AI_NUMERICHOST | AI_NUMERICSERV,
                         &server->moved, 1, &count);
    return count == 1;
}

static socklen_t address_len(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                          : sizeof(struct sockaddr_in);
}

/* ---- Dialling ---- */

static void state_enter(struct redis *redis, enum redis_state state, int64_t now)
{
    redis->state = state;
    redis->heard = now;
}

/* Watches the socket for what is wanted of it. Returns 0; -1 with errno. */
static int interest_set(struct redis *redis, int interest)
{
    if (evloop_mod(redis->loop, redis->fd, redis->interest, interest, redis) < 0)
        return -1;
    redis->interest = interest;
    return 0;
}

/* Makes a socket that is being connected, or sets errno and returns -1. */
static int socket_dial(const struct sockaddr_storage *address)
{
    /* What is still unsent when we close must not arrive later, behind what is new. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    int fd = socket(address->ss_family, SOCK_STREAM, 0), on = 1, error;

    if (fd < 0)
        return -1;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0 &&
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
        (connect(fd, (const struct sockaddr *)address, address_len(address)) == 0 ||
         errno == EINPROGRESS || errno == EINTR))
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Whether the next address has its turn at once; after the last there is a pause. */
static bool dial_failed(struct redis *redis)
{
    bool moved = redis->server->moved.ss_family != 0;

    redis->failed++;
    redis->server->moved.ss_family = 0;
    if (!moved)
        redis_elsewhere(redis);
    redis->refused = redis->failed % redis->server->count == 0;
    return !redis->refused;
}

void redis_elsewhere(struct redis *redis)
{
    redis->address = (redis->address + 1) % redis->server->count;
}

/* It could not be connected. */
static void dial_lose(struct redis *redis, const char *reason, int64_t now)
{
    redis_lose(redis, slice_of(reason), now);
    if (dial_failed(redis))
        redis->dial_at = now;
}

static void dial(struct redis *redis, int64_t now)
{
    struct redis_server *server = redis->server;
    const struct sockaddr_storage *address = server->moved.ss_family != 0
                                                 ? &server->moved
                                                 : &server->addresses[redis->address];

    state_enter(redis, REDIS_DIALING, now);
    redis->fd = socket_dial(address);
    if (redis->fd < 0 || interest_set(redis, EVLOOP_WRITE) < 0)
        dial_lose(redis, strerror(errno), now);
}

static void on_connected(struct redis *redis, int64_t now)
{
    const struct url *url = &redis->server->url;
    const struct slice words[] = {
        {"AUTH", 4}, slice_of(url->user), slice_of(url->password)};
    const struct slice short_words[] = {words[0], words[2]};

    redis->failed = 0;
    if (interest_set(redis, EVLOOP_READ) < 0) {
        redis_lose(redis, slice_of(strerror(errno)), now);
        return;
    }
    state_enter(redis, REDIS_READY, now);
    if (url->password[0] == '\0')
        return;
    redis->state = REDIS_AUTH;
    if (url->user[0] != '\0')
        redis_command(redis, words, 3, now);
    else
        redis_command(redis, short_words, 2, now);
    redis_send(redis, now);
}

static void on_dialled(struct redis *redis, int64_t now)
{
    int error = 0;
    socklen_t len = sizeof error;

    if (getsockopt(redis->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    if (error != 0)
        dial_lose(redis, strerror(error), now);
    else
        on_connected(redis, now);
}

/* ---- A connection's life ---- */

int redis_open(struct redis *redis, struct redis_server *server, int loop,
               size_t out_room)
{
    *redis = (struct redis){.server = server,
                            .loop = loop,
                            .fd = -1,
                            .pause_ms = PAUSE_MIN_MS,
                            .out_room = out_room < AUTH_MAX ? AUTH_MAX : out_room};
    redis->out = malloc(redis->out_room);
    redis->in = malloc(REDIS_READ_MAX);
    return redis->out == NULL || redis->in == NULL ? -1 : 0;
}

/* Closes the socket. What was sent or received in part is forgotten. */
static void socket_close(struct redis *redis)
{
    if (redis->fd >= 0) {
        evloop_del(redis->loop, redis->fd, redis->interest);
        close(redis->fd);
    }
    redis->fd = -1;
    redis->interest = 0;
    redis->state = REDIS_CLOSED;
    redis->awaited = 0;
    redis->readable = false;
    redis->out_len = redis->out_sent = redis->input.len = 0;
    resp_close(&redis->resp);
}

void redis_close(struct redis *redis)
{
    socket_close(redis);
    free(redis->out);
    free(redis->in);
}

void redis_lose(struct redis *redis, struct slice reason, int64_t now)
{
    enum { MOST = (REDIS_REASON_MAX - 1) / UTF8_VISIBLE_MAX };
    size_t len = reason.len < MOST ? reason.len : MOST;

    redis->refused = false;
    redis->reason[utf8_visible(redis->reason, reason.bytes, len)] = '\0';
    socket_close(redis);
    redis->lost = true;
    redis->dial_at = now + redis_pause(redis);
}

int64_t redis_pause(struct redis *redis)
{
    int64_t pause = redis->pause_ms;

    redis->pause_ms = 2 * pause < PAUSE_MAX_MS ? 2 * pause : PAUSE_MAX_MS;
    return pause;
}

void redis_is_well(struct redis *redis)
{
    redis->pause_ms = PAUSE_MIN_MS;
}

int64_t redis_deadline(const struct redis *redis)
{
    if (redis->state == REDIS_CLOSED)
        return redis->dial_at;
    if (redis->state == REDIS_DIALING || redis->awaited > 0)
        return redis->heard + REDIS_SILENCE_MS;
    return INT64_MAX;
}

void redis_turn(struct redis *redis, int64_t now)
{
    if (now < redis_deadline(redis))
        return;
    if (redis->state == REDIS_CLOSED)
        dial(redis, now);
    else if (redis->state == REDIS_DIALING)
        dial_lose(redis, strerror(ETIMEDOUT), now);
    else
        redis_lose(redis, slice_of("no answer for 10 s"), now);
}

/* ---- Commands and replies ---- */

void redis_command(struct redis *redis, const struct slice *words, size_t count,
                   int64_t now)
{
    size_t len = resp_command(redis->out + redis->out_len,
                              redis->out_room - redis->out_len, words, count);

    if (len == 0) {
        redis_lose(redis, slice_of("a command is too long"), now);
        return;
    }
    if (redis->awaited++ == 0)
        redis->heard = now;
    redis->out_len += len;
}

void redis_send(struct redis *redis, int64_t now)
{
    if (redis->out_len == 0)
        return;
    while (redis->out_sent < redis->out_len) {
        ssize_t n = send(redis->fd, redis->out + redis->out_sent,
                         redis->out_len - redis->out_sent, 0);
        if (n > 0) {
            redis->out_sent += (size_t)n;
            redis->heard = now;
        } else if (n < 0 && errno == EAGAIN) {
            break;
        } else if (n < 0 && errno != EINTR) {
            redis_lose(redis, slice_of(strerror(errno)), now);
            return;
        }
    }
    if (redis->out_sent == redis->out_len)
        redis->out_sent = redis->out_len = 0;
    if (interest_set(redis,
                     redis->out_len > 0 ? EVLOOP_READ | EVLOOP_WRITE : EVLOOP_READ) < 0)
        redis_lose(redis, slice_of(strerror(errno)), now);
}

void redis_on_event(struct redis *redis, int ready, int64_t now)
{
    if (redis->fd < 0)
        return; /* it was lost in this batch of events */
    if (redis->state == REDIS_DIALING) {
        on_dialled(redis, now);
        return;
    }
    redis->readable = ready & EVLOOP_READ;
    if (ready & EVLOOP_WRITE)
        redis_send(redis, now);
}

/* Reads once after an event. Returns whether something has come. */
static bool input_read(struct redis *redis, int64_t now)
{
    ssize_t n;

    if (!redis->readable)
        return false;
    redis->readable = false;
    n = recv(redis->fd, redis->in, REDIS_READ_MAX, 0);
    if (n > 0) {
        redis->heard = now;
        redis->input = (struct slice){redis->in, (size_t)n};
    } else if (n == 0) {
        redis_lose(redis, slice_of("it closed the connection"), now);
    } else if (errno != EAGAIN && errno != EINTR) {
        redis_lose(redis, slice_of(strerror(errno)), now);
    }
    return n > 0;
}

/* Whether the item was AUTH's reply; if it says no, the connection is lost. */
static bool auth_end(struct redis *redis, const struct resp_item *item, int64_t now)
{
    if (redis->state != REDIS_AUTH)
        return false;
    redis->state = REDIS_READY;
    if (item->type == RESP_ERROR) {
        redis_lose(redis, item->text, now);
        redis->refused = true;
    }
    return true;
}

int redis_next(struct redis *redis, struct resp_item *item, int64_t now)
{
    int got = 0;

    while (redis->input.len > 0 || input_read(redis, now)) {
        got = resp_next(&redis->resp, &redis->input, item);
        if (got > 0 && redis->awaited == 0) {
            redis_lose(redis, item->text, now); /* such as: too many clients */
            redis->refused = true;
            return 0;
        }
        if (got > 0) {
            redis->awaited -= item->last;
            if (!auth_end(redis, item, now))
                return 1;
        }
        if (got < 0) {
            redis_lose(redis, slice_of(strerror(errno)), now);
            return 0;
        }
    }
    return 0;
}
