/*
 * edge_chat.c - the chat of step 6, edge-triggered: epoll with EPOLLET, Linux only
 *
 * An edge-triggered loop says once that a descriptor has become ready, and then nothing
 * until something new comes. So the program has to remember by itself who is ready:
 *
 *   - Each descriptor is registered once, for reading and writing. Its events only set
 *     the flags `readable` and `writable`. Only EAGAIN takes them back.
 *   - Whoever has work to do, bytes to be read or room for bytes, waits in a queue.
 *     A turn is one send and one read; whoever is not finished goes to the queue's end.
 *     To read from one client until EAGAIN at one go would let a flooder starve the rest.
 *   - The listener is accepted from until EAGAIN, too: one edge may stand for many.
 *   - The loop sleeps only if the queue is empty.
 *
 * What it gains: there is one epoll_ctl() per client, since interest never changes. What
 * it costs: the queue, the flags, and a fault wherever one of them is forgotten.
 *
 * Run:  edge_chat [port]        0: any free port
 * See:  what step 6 shows, and `diff ../../steps/6-broadcast.c edge_chat.c`
 */
#ifndef __linux__

#include <stdio.h>

int main(void)
{
    puts("EPOLLET is Linux's; kqueue has EV_CLEAR: see the chapter on the event loop");
    return 0;
}

#else

#include <ctype.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 3100 };            /* the assignment's, unless another one is given */
enum { ACCEPT_PAUSE_MS = 1000 }; /* how long to wait for a free descriptor */
enum { MESSAGE_MAX = 1024 };     /* the assignment's limit in bytes, newline excluded */
enum { READ_MAX = 4096 };        /* bytes from one client, then the next has its turn */
enum { BATCH = 64 };             /* events of one wait */
enum { TURNS = 64 };             /* and turns before the next: new events wait as well */

static struct {
    int loop;
    int listener;
    bool acceptable;   /* somebody may wait to be accepted */
    int64_t accept_at; /* when the last pause in accepting ended, or will end */
    struct client *clients;
    struct client *first, *last; /* the queue of those who have work to do */
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
    bool readable;          /* not read until EAGAIN since the last edge */
    bool writable;          /* not sent to until EAGAIN since the last edge */
    bool queued;            /* in the queue, or having its turn */
    struct client *behind;  /* in the queue */
    char line[MESSAGE_MAX]; /* the message that is being received, */
    size_t line_len;        /* so far */
    const char *out;        /* the bytes that wait to be sent; NULL: sending failed */
    size_t out_len;         /* how many they are */
    char *buffer;           /* where they wait, unless they are the greeting */
    size_t buffer_end;      /* where free space begins in it */
    size_t buffer_size;
    const char *ended; /* why it is to be closed */
    struct client *prev, *next;
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

/* Queues a client that has work to do, unless it is queued already. */
static void client_queue(struct client *client)
{
    if (client->queued ||
        !(client->readable || (client->writable && client->out_len > 0)))
        return;
    client->queued = true;
    client->behind = NULL;
    if (server.first == NULL)
        server.first = client;
    else
        server.last->behind = client;
    server.last = client;
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
    client_queue(client);
}

/* Makes a client of a connection that has just been accepted. */
static void client_open(int fd)
{
    struct client *client = calloc(1, sizeof *client);
    struct epoll_event watch = {.events = EPOLLIN | EPOLLOUT | EPOLLET};

    watch.data.ptr = client;
    if (client == NULL || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        epoll_ctl(server.loop, EPOLL_CTL_ADD, fd, &watch) < 0) {
        warn("client %d: calloc, fcntl or epoll_ctl", fd);
        free(client);
        close(fd);
        return;
    }
    printf("accepted connection: %d\n", fd);
    client->fd = fd;
    client->next = server.clients;
    if (client->next != NULL)
        client->next->prev = client;
    server.clients = client;
    client->out = GREETING;
    client->out_len = sizeof GREETING - 1; /* the first wait says that there is room */
}

/*
 * Ends a client: the one place where its descriptor and its memory are released. Nothing
 * else points to it: it has its turn, so it is not in the queue, and no batch is open.
 */
static void client_close(struct client *client, const char *reason)
{
    printf("connection terminated: %d (%s)\n", client->fd, reason);
    if (client->next != NULL)
        client->next->prev = client->prev;
    if (client->prev != NULL)
        client->prev->next = client->next;
    else
        server.clients = client->next;
    close(client->fd); /* the loop forgets it: nobody else has a copy of the descriptor */
    free(client->buffer);
    free(client);
}

/*
 * One accept per round, until EAGAIN: the loop does not tell again. Without a free
 * descriptor there is no EAGAIN, so the flag stays, and a pause has to be made.
 */
static void on_connection(void)
{
    int fd = accept(server.listener, NULL, NULL);

    if (fd >= 0) {
        client_open(fd);
    } else if (errno == EAGAIN) {
        server.acceptable = false;
    } else if (errno != EINTR && errno != ECONNABORTED) {
        warn("accept");
        server.accept_at = clock_ms() + ACCEPT_PAUSE_MS;
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
    for (struct client *to = server.clients; to != NULL; to = to->next) {
        client_send(to, text, len);
        client_send(to, "\n", 1);
    }
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

/* One read per turn. What is left keeps the client readable: nobody reports it again. */
static void on_readable(struct client *client)
{
    char bytes[READ_MAX];
    ssize_t n = recv(client->fd, bytes, sizeof bytes, 0);

    if (n > 0)
        on_bytes(client, bytes, (size_t)n);
    else if (n < 0 && errno == EAGAIN)
        client->readable = false; /* all is read: the loop will tell */
    else if (n == 0 || errno != EINTR)
        client->ended = n == 0 ? "end of file" : strerror(errno);
}

/* One send per turn. After a short one the next tells whether there is no room at all. */
static void on_writable(struct client *client)
{
    ssize_t n = send(client->fd, client->out, client->out_len, 0);

    if (n >= 0) {
        client->out += n;
        client->out_len -= (size_t)n;
    } else if (errno == EAGAIN) {
        client->writable = false; /* no room: the loop will tell */
    } else if (errno != EINTR) {
        client_fail(client, "send");
    }
}

/* The turn of the client that has waited longest. */
static void client_turn(void)
{
    struct client *client = server.first;

    server.first = client->behind;
    if (client->writable && client->out_len > 0)
        on_writable(client);
    if (client->readable)
        on_readable(client);
    if (client->ended != NULL) {
        client_close(client, client->ended);
        return;
    }
    client->queued = false;
    client_queue(client);
}

/* Only takes notice. Errors and hang-ups count as both: recv() and send() tell. */
static void on_event(struct client *client, uint32_t came)
{
    if (client == NULL) { /* the listener's */
        server.acceptable = true;
        return;
    }
    if (came & ~(uint32_t)EPOLLOUT)
        client->readable = true;
    if (came & ~(uint32_t)EPOLLIN)
        client->writable = true;
    client_queue(client);
}

/* How long the loop may sleep: not at all if there is work to do. */
static int wait_ms(void)
{
    int64_t pause = server.accept_at - clock_ms();

    if (server.first != NULL)
        return 0;
    return !server.acceptable ? -1 : pause > 0 ? (int)pause : 0;
}

static void loop_open(void)
{
    struct epoll_event watch = {.events = EPOLLIN | EPOLLET};

    if ((server.loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
        err(1, "epoll_create1");
    if (epoll_ctl(server.loop, EPOLL_CTL_ADD, server.listener, &watch) < 0)
        err(1, "epoll_ctl");
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
        errx(2, "usage: edge_chat [port]");
    return (in_port_t)port;
}

int main(int argc, char **argv)
{
    in_port_t port = port_parse(argc, argv);

    setvbuf(stdout, NULL, _IOLBF, 0); /* the log leaves line by line, into a pipe too */
    signal(SIGPIPE, SIG_IGN);         /* sending to a departed client is just an error */
    server.listener = listener_open(port);
    loop_open();
    for (;;) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(server.loop, events, BATCH, wait_ms());
        if (n < 0 && errno != EINTR)
            err(1, "epoll_wait");
        for (int i = 0; i < n; i++)
            on_event(events[i].data.ptr, events[i].events);
        if (server.acceptable && clock_ms() >= server.accept_at)
            on_connection();
        for (int i = 0; i < TURNS && server.first != NULL; i++)
            client_turn();
    }
}

#endif
