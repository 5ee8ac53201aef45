/*
 * Step 5: echo. A message goes back to its sender; what has no room to leave yet waits.
 *
 * Not yet: clients do not see each other's messages.
 *
 * Usage: chatsrv [port]
 * Systems: Linux (epoll), macOS and BSD (kqueue)
 */
#include "evloop.h"

#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { PORT = 3100 };            /* the assignment's, unless another one is given */
enum { ACCEPT_PAUSE_MS = 1000 }; /* how long to wait for a free descriptor */
enum { MESSAGE_MAX = 1024 };     /* the assignment's limit in bytes, newline excluded */
enum { READ_MAX = 4096 };        /* bytes from one client, then the next has its turn */

static struct {
    int loop;
    int listener;
    int interest;      /* what the loop watches the listener for; 0 in a pause */
    int64_t accept_at; /* when the last pause in accepting ended, or will end */
} server;

/* Milliseconds on a clock that nobody sets. */
static int64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char GREETING[] = "Welcome to the chat!\n";

struct client {
    int fd;
    int interest;           /* what the loop watches fd for */
    char line[MESSAGE_MAX]; /* the message that is being received, */
    size_t line_len;        /* so far */
    const char *out;        /* the bytes that wait to be sent; NULL: sending failed */
    size_t out_len;         /* how many they are */
    char *buffer;           /* where they wait, unless they are the greeting */
    size_t buffer_end;      /* where free space begins in it */
    size_t buffer_size;
};

/* Gives up sending to a client. What it has said is still read, up to its end. */
static void client_fail(struct client *client, const char *call)
{
    warn("client %d: %s", client->fd, call);
    free(client->buffer);
    client->buffer = NULL;
    client->out = NULL;
    client->out_len = 0;
    shutdown(client->fd, SHUT_WR); /* if it is still there, it sees the end and leaves */
}

static void client_watch(struct client *client, int interest)
{
    if (evloop_mod(server.loop, client->fd, client->interest, interest, client) < 0)
        client_fail(client, "evloop_mod");
    else
        client->interest = interest;
}

/* Makes room for len more bytes of a message. Doubling the size makes copying rare. */
static int buffer_reserve(struct client *client, size_t len)
{
    size_t size = 2 * (client->out_len + MESSAGE_MAX);
    char *buffer;

    if (client->buffer != NULL && len <= client->buffer_size - client->buffer_end)
        return 0;
    if ((buffer = malloc(size)) == NULL)
        return -1;
    memcpy(buffer, client->out, client->out_len);
    free(client->buffer);
    client->out = client->buffer = buffer;
    client->buffer_end = client->out_len;
    client->buffer_size = size;
    return 0;
}

/* Queues bytes behind those that wait: the socket may have no room for them now. */
static void client_send(struct client *client, const char *bytes, size_t len)
{
    if (client->out == NULL)
        return; /* sending to it has failed */
    if (buffer_reserve(client, len) < 0) {
        client_fail(client, "malloc");
        return;
    }
    memcpy(client->buffer + client->buffer_end, bytes, len);
    client->buffer_end += len;
    client->out_len += len;
    client_watch(client, EVLOOP_READ | EVLOOP_WRITE);
}

/* Makes a client of a connection that has just been accepted. */
static void client_open(int fd)
{
    struct client *client = calloc(1, sizeof *client);

    if (client == NULL || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        evloop_add(server.loop, fd, EVLOOP_READ, client) < 0) {
        warn("client %d: calloc, fcntl or evloop_add", fd);
        free(client);
        close(fd);
        return;
    }
    printf("accepted connection: %d\n", fd);
    client->fd = fd;
    client->interest = EVLOOP_READ;
    client->out = GREETING;
    client->out_len = sizeof GREETING - 1;
    client_watch(client, EVLOOP_READ | EVLOOP_WRITE);
}

/* Ends a client: the one place where its descriptor and its memory are released. */
static void client_close(struct client *client, const char *reason)
{
    printf("connection terminated: %d (%s)\n", client->fd, reason);
    evloop_del(server.loop, client->fd, client->interest);
    close(client->fd);
    free(client->buffer);
    free(client);
}

/* Changes what the loop watches the listener for. If it fails, the next call may not. */
static void listener_watch(int interest)
{
    if (evloop_mod(server.loop, server.listener, server.interest, interest, NULL) == 0)
        server.interest = interest;
}

/*
 * One accept per event: whoever else waits is reported again. Without a free descriptor
 * that would never end, so the loop then looks away from the listener for a while.
 */
static void on_connection(void)
{
    int fd = accept(server.listener, NULL, NULL);

    if (fd >= 0) {
        client_open(fd);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        warn("accept");
        server.accept_at = clock_ms() + ACCEPT_PAUSE_MS;
        listener_watch(0);
    }
}

/* Control bytes are logged as \xNN, so that nobody can forge a line of the log. */
static void log_message(const struct client *client, const char *text, size_t len)
{
    printf("message from %d: ", client->fd);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (iscntrl(byte))
            printf("\\x%02x", byte);
        else
            putchar(byte);
    }
    putchar('\n');
}

static void on_message(struct client *client, const char *text, size_t len)
{
    log_message(client, text, len);
    client_send(client, text, len);
    client_send(client, "\n", 1);
}

/* A read brings any piece of the stream: a part of a message, or many messages. */
static void on_bytes(struct client *client, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == '\n' || client->line_len == MESSAGE_MAX) {
            on_message(client, client->line, client->line_len);
            client->line_len = 0;
        }
        if (bytes[i] != '\n')
            client->line[client->line_len++] = bytes[i];
    }
}

/* One read per event: what is left is reported again, after the others had their turn. */
static void on_readable(struct client *client)
{
    char bytes[READ_MAX];
    ssize_t n = recv(client->fd, bytes, sizeof bytes, 0);

    if (n > 0)
        on_bytes(client, bytes, (size_t)n);
    else if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return; /* nothing has come yet: the loop will tell */
    else
        client_close(client, n == 0 ? "end of file" : strerror(errno));
}

/* One send per event. There usually is room: the loop watches for it only on demand. */
static void on_writable(struct client *client)
{
    ssize_t n = send(client->fd, client->out, client->out_len, 0);

    if (n >= 0) {
        client->out += n;
        client->out_len -= (size_t)n;
    } else if (errno != EAGAIN && errno != EINTR && client->out != NULL) {
        client_fail(client, "send");
    }
    if (client->out_len == 0)
        client_watch(client, EVLOOP_READ);
}

static void on_event(struct client *client, int ready)
{
    if (client == NULL) { /* the listener's */
        on_connection();
        return;
    }
    if (ready & EVLOOP_WRITE || client->out_len > 0) /* first: reading may close it */
        on_writable(client);
    if (ready & EVLOOP_READ)
        on_readable(client);
}

/* Returns a socket that listens on the port at all of this machine's IPv4 addresses. */
static int listener_open(in_port_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof address;
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0)
        err(1, "socket");
    /* Otherwise connections that the last run closed keep the port taken for minutes. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        err(1, "setsockopt SO_REUSEADDR");
    /* Accepted sockets inherit this: what is sent leaves at once, however little. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        err(1, "setsockopt TCP_NODELAY");
    if (bind(fd, (struct sockaddr *)&address, len) < 0)
        err(1, "bind port %d", port);
    if (listen(fd, SOMAXCONN) < 0)
        err(1, "listen");
    /* A visitor may be gone again by the time of accept(), which would then block. */
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        err(1, "fcntl");
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        err(1, "getsockname");
    printf("listening on port %d\n", ntohs(address.sin_port)); /* for 0, a free one */
    return fd;
}

static in_port_t port_parse(int argc, char **argv)
{
    char *end = "";
    long port = argc > 1 ? strtol(argv[1], &end, 10) : PORT;

    if (argc > 2 || end == argv[1] || *end != '\0' || port < 0 || port > 65535)
        errx(2, "usage: chatsrv [port]");
    return (in_port_t)port;
}

int main(int argc, char **argv)
{
    in_port_t port = port_parse(argc, argv);

    setvbuf(stdout, NULL, _IOLBF, 0); /* the log leaves line by line, into a pipe too */
    signal(SIGPIPE, SIG_IGN);         /* sending to a departed client is just an error */
    if ((server.loop = evloop_open()) < 0)
        err(1, "evloop_open");
    server.listener = listener_open(port);
    listener_watch(EVLOOP_READ);
    for (;;) {
        /* One event at a time: its handler may free the client of a second one. */
        struct evloop_event event;
        int timeout = server.interest ? -1 : ACCEPT_PAUSE_MS;
        int n = evloop_wait(server.loop, &event, 1, timeout);
        if (n < 0)
            err(1, "evloop_wait");
        if (clock_ms() >= server.accept_at)
            listener_watch(EVLOOP_READ);
        if (n > 0)
            on_event(event.data, event.ready);
    }
}
