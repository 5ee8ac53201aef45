/*
 * sockets.h - what the event loop's tests share: descriptors, and a watch on hangs
 *
 * Interface: call hang_watch() first; then there are pairs of descriptors (pair_tcp() and
 * others), operations on them, and ticks_start() for signals that interrupt. If the
 * system refuses a descriptor, the test ends. All descriptors are nonblocking.
 */
#ifndef SOCKETS_H
#define SOCKETS_H

#include "check.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DEADLINE_S = 60 }; /* for a whole test: it takes seconds, under valgrind too */
enum { SOON_MS = 10000 }; /* for what is sure to come, but not at once */
enum { TICKS = 500 };

/* Where systems differ: a call has to return -1, with either of two errors. */
#define CHECK_FAILS_2(call, error, other)                                                \
    do {                                                                                 \
        long failed_ = (call);                                                           \
        CHECK(failed_ == -1 && (errno == (error) || errno == (other)));                  \
    } while (0)

/* Returns what a call returned, or ends the test if it was -1. */
static inline int must(int result, const char *call)
{
    if (result >= 0)
        return result;
    perror(call);
    exit(1);
}

static volatile sig_atomic_t alarms_left = 1; /* at zero the test ends */

static inline void hang_say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(2);
}

/* A number as text, from its last digit on: a signal handler cannot call printf(). */
static inline const char *hang_number(int number)
{
    static char digits[12];
    char *at = digits + sizeof digits - 1;

    do {
        *--at = (char)('0' + number % 10);
    } while ((number /= 10) > 0);
    return at;
}

static inline void on_alarm(int signal_number)
{
    (void)signal_number;
    if (--alarms_left > 0)
        return;
    hang_say(check_last.file ? check_last.file : "?");
    hang_say(":");
    hang_say(hang_number(check_last.line));
    hang_say(": the test hangs after this check\n");
    _exit(1);
}

/* Ends a test that hangs. */
static inline void hang_watch(void)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};

    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGALRM, &action, NULL);
    alarm(DEADLINE_S);
}

/* ---- time ---- */

static inline long clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Not earlier, as far as clocks agree; how much later depends on the machine. */
#define CHECK_WAITED(since, ms) CHECK(clock_ms() - (since) >= (ms)-5)

/* Sends a SIGALRM every 20 ms from now on, for ten seconds at most. */
static inline void ticks_start(void)
{
    struct itimerval timer = {.it_interval.tv_usec = 20000, .it_value.tv_usec = 20000};

    alarms_left = TICKS;
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* Stops the ticks, and returns how many there were. */
static inline int ticks_stop(void)
{
    struct itimerval timer = {.it_value.tv_sec = DEADLINE_S};
    int seen;

    setitimer(ITIMER_REAL, &timer, NULL);
    seen = TICKS - alarms_left;
    alarms_left = 1;
    return seen;
}

/* ---- descriptors ---- */

static inline int nonblocking(int fd)
{
    must(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), "fcntl");
    return fd;
}

/* The reading end and the writing end. */
static inline void pair_pipe(int fd[2])
{
    must(pipe(fd), "pipe");
    nonblocking(fd[0]);
    nonblocking(fd[1]);
}

/* The two ends of a local stream: what one end does, the other sees at once. */
static inline void pair_local(int fd[2])
{
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), "socketpair");
    nonblocking(fd[0]);
    nonblocking(fd[1]);
}

/* A listening socket on a free port of 127.0.0.1; the address is filled in. */
static inline int listener_open(struct sockaddr_in *address)
{
    socklen_t len = sizeof *address;
    int fd = nonblocking(must(socket(AF_INET, SOCK_STREAM, 0), "socket"));

    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(bind(fd, (struct sockaddr *)address, len), "bind");
    must(listen(fd, 8), "listen");
    must(getsockname(fd, (struct sockaddr *)address, &len), "getsockname");
    return fd;
}

static inline int client_open(const struct sockaddr_in *address)
{
    int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");

    must(connect(fd, (const struct sockaddr *)address, sizeof *address), "connect");
    return nonblocking(fd);
}

/* The two ends of a TCP connection: what one end does, the other sees soon. */
static inline void pair_tcp(int fd[2])
{
    struct sockaddr_in address;
    int listener = listener_open(&address);

    fd[1] = client_open(&address);
    fcntl(listener, F_SETFL, 0); /* block until it has come */
    fd[0] = nonblocking(must(accept(listener, NULL, NULL), "accept"));
    must(close(listener), "close");
}

/* Closes a TCP connection with a reset. */
static inline void close_reset(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};

    must(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), "setsockopt");
    must(close(fd), "close");
}

static inline void close_both(const int fd[2])
{
    must(close(fd[0]), "close");
    must(close(fd[1]), "close");
}

static inline void put(int fd, const char *bytes, size_t len)
{
    CHECK_EQUAL(write(fd, bytes, len), (long)len);
}

/* Writes until there is no room for even one more byte. */
static inline void fill(int fd)
{
    static const char zeros[65536];

    for (size_t piece = sizeof zeros; piece > 0; piece /= 2)
        while (write(fd, zeros, piece) > 0) {
        }
    CHECK_EQUAL(errno, EAGAIN);
}

/* Reads until nothing is left. */
static inline void drain(int fd)
{
    char bytes[65536];

    while (read(fd, bytes, sizeof bytes) > 0) {
    }
    CHECK_EQUAL(errno, EAGAIN);
}

#endif
