/*
 * stop_selfpipe.c - a server that stops safely on a signal: the self-pipe
 *
 * A signal handler interrupts the program anywhere, so it can safely do almost nothing,
 * and a flag that it sets may be set a moment after the check and before the program
 * sleeps: it then sleeps on. Here the handler writes a byte into a pipe whose other end
 * the loop watches like any descriptor: the signal becomes one more event, handled
 * between two others, and what the program was about to do is done. Works on every Unix;
 * stop_signalfd.c is the shorter way on Linux.
 *
 * Run:  stop_selfpipe [port]          0, or none: any free port; stop it with ^C or kill
 * See:  listening on port 40215       and, for `nc localhost 40215`, "you are visitor 1"
 *       visitor 1
 *       stopping: Terminated          the exit code is 0
 */
#include "evloop.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int signal_pipe[2]; /* a handler gets no argument but the signal's number */

static void fd_nonblocking(int fd)
{
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        err(1, "fcntl");
}

/* write() is one of the few functions a handler may call, signal-safety(7). */
static void on_signal(int number)
{
    int before = errno; /* the code that is interrupted may be about to look at it */
    unsigned char byte = (unsigned char)number;
    ssize_t n = write(signal_pipe[1], &byte, 1);

    (void)n; /* in a pipe that is full of signals, one more would say nothing new */
    errno = before;
}

/* Returns a descriptor that becomes readable when the program is told to stop. */
static int signal_open(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    if (pipe(signal_pipe) < 0)
        err(1, "pipe");
    fd_nonblocking(signal_pipe[0]);
    fd_nonblocking(signal_pipe[1]); /* a handler must never wait */
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGINT, &action, NULL) < 0 || sigaction(SIGTERM, &action, NULL) < 0)
        err(1, "sigaction");
    return signal_pipe[0];
}

/* Returns the number of the signal that came. */
static int signal_read(int fd)
{
    unsigned char byte;

    if (read(fd, &byte, 1) != 1)
        err(1, "read");
    return byte;
}

static int listener_open(in_port_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof address;
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        err(1, "socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        err(1, "setsockopt");
    if (bind(fd, (struct sockaddr *)&address, len) < 0)
        err(1, "bind port %d", port);
    if (listen(fd, SOMAXCONN) < 0)
        err(1, "listen");
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        err(1, "getsockname");
    fd_nonblocking(fd); /* a visitor may be gone again by the time of accept() */
    printf("listening on port %d\n", ntohs(address.sin_port));
    return fd;
}

static void on_connection(int listener)
{
    static int visitors;
    char text[40];
    int len, fd = accept(listener, NULL, NULL);

    if (fd < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            err(1, "accept");
        return;
    }
    printf("visitor %d\n", ++visitors);
    len = snprintf(text, sizeof text, "you are visitor %d\n", visitors);
    if (write(fd, text, (size_t)len) < 0) /* a new socket has room: this cannot block */
        warn("visitor %d: write", visitors);
    close(fd);
}

static in_port_t port_parse(int argc, char **argv)
{
    char *end = "";
    long port = argc > 1 ? strtol(argv[1], &end, 10) : 0;

    if (argc > 2 || end == argv[1] || *end != '\0' || port < 0 || port > 65535)
        errx(2, "usage: stop_selfpipe [port]");
    return (in_port_t)port;
}

int main(int argc, char **argv)
{
    struct evloop_event event = {0};
    in_port_t port = port_parse(argc, argv);
    int loop, listener, stop;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    stop = signal_open(); /* before anybody can know that the server runs */
    listener = listener_open(port);
    if ((loop = evloop_open()) < 0)
        err(1, "evloop_open");
    if (evloop_add(loop, stop, EVLOOP_READ, &stop) < 0 ||
        evloop_add(loop, listener, EVLOOP_READ, &listener) < 0)
        err(1, "evloop_add");
    while (event.data != &stop) {
        int n = evloop_wait(loop, &event, 1, -1);
        if (n < 0)
            err(1, "evloop_wait");
        if (n > 0 && event.data == &listener)
            on_connection(listener);
    }
    printf("stopping: %s\n", strsignal(signal_read(stop)));
    evloop_del(loop, listener, EVLOOP_READ);
    close(listener);
    close(loop);
    return 0;
}
