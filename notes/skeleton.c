/*
 * Step 1: accept. A socket listens, a loop waits; visitors are logged and sent away.
 *
 * Not yet: nobody can stay, so nothing is read.
 *
 * Usage: chatsrv [port]
 * Systems: Linux (epoll), macOS and BSD (kqueue)
 */
#include "evloop.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

enum { PORT = 3100 };            /* the assignment's, unless another one is given */
enum { ACCEPT_PAUSE_MS = 1000 }; /* how long to wait for a free descriptor */

static struct {
    int loop;
    int listener;
} server;

/* Milliseconds on a clock that nobody sets. */
static int64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Takes a connection that has just been accepted. */
static void client_open(int fd)
{
    (void)fd; /* TODO: log "accepted connection", close it */
}

static void on_connection(void)
{
    client_open(-1); /* TODO: which descriptor, or what failed, accept() says */
    (void)clock_ms;  /* TODO: without a free descriptor, a pause of ACCEPT_PAUSE_MS */
}

/* Returns a socket that listens on the port at all of this machine's IPv4 addresses. */
static int listener_open(in_port_t port)
{
    (void)port; /* TODO: socket(), setsockopt(), bind(), listen(); O_NONBLOCK */
    return -1;
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
    server.listener = listener_open(port);
    /* TODO: open the loop, watch the listener; for ever: wait, handle what is ready */
    on_connection();
}
