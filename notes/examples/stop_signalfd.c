/*
 * stop_signalfd.c - a server that stops safely on a signal: signalfd, Linux only
 *
 * The signals are blocked: no handler ever interrupts the program. They wait in the
 * kernel, and a descriptor that the loop watches like any other hands them over, as bytes
 * to read: the signal is one more event, handled between two others. The mask of blocked
 * signals is inherited over fork() and exec(): a program that starts others unblocks them
 * there first. stop_selfpipe.c does the same on every Unix.
 *
 * Run:  stop_signalfd [port]          0, or none: any free port; stop it with ^C or kill
 * See:  listening on port 40215       and, for `nc localhost 40215`, "you are visitor 1"
 *       visitor 1
 *       stopping: Terminated          the exit code is 0
 *       `diff stop_selfpipe.c stop_signalfd.c`: only how the signal becomes a descriptor.
 */
#ifndef __linux__

#include <stdio.h>

int main(void)
{
    puts("signalfd is Linux's: see stop_selfpipe.c");
    return 0;
}

#else

#include "evloop.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

static void fd_nonblocking(int fd)
{
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        err(1, "fcntl");
}

/* Returns a descriptor that becomes readable when the program is told to stop. */
static int signal_open(void)
{
    sigset_t stops;
    int fd;

    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &stops, NULL) < 0) /* else they end the program at once */
        err(1, "sigprocmask");
    if ((fd = signalfd(-1, &stops, SFD_NONBLOCK | SFD_CLOEXEC)) < 0)
        err(1, "signalfd");
    return fd;
}

/* Returns the number of the signal that came. */
static int signal_read(int fd)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof info) != sizeof info)
        err(1, "read");
    return (int)info.ssi_signo;
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
        errx(2, "usage: stop_signalfd [port]");
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

#endif
