/*
 * udp_numbers.c - a homework: tcp_numbers.c over UDP, where anything may be lost
 *
 * A number is a datagram of four bytes, the least significant first; so is the answer.
 * Each datagram may be lost, come twice, or come late.
 *
 *   - If no answer has come after a while, the question is sent again, and the next while
 *     is twice as long, so that a busy server is not asked ever more. At TRIES it ends.
 *     The server may get a question twice, so it must do no harm to answer it twice.
 *   - Each question has a socket of its own, closed with the answer. An answer that comes
 *     twice or too late finds nobody, and is not taken for the next question's. Whoever
 *     may choose the format puts a number into question and answer instead, as DNS does.
 *   - The socket is connected: it takes nothing from strangers, and if the port is closed
 *     the system may say so. A datagram of another len than four is no answer.
 *
 * Run:  udp_numbers host port [ms]     numbers on standard input; ms: the first while
 * See:  the answers, a line each; exit status 0 at the end of the input, 1 if no answer
 *       came, 2 on wrong usage
 */
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NUMBER = 4 }; /* bytes of a datagram */
enum { TRIES = 5 };  /* 1 + 2 + 4 + 8 + 16: half a minute, at first a second */
enum {
    FIRST_WAIT = 1000
}; /* milliseconds: longer than nearly every way there and back */
enum { WAIT_MAX = 60000 };

/* Milliseconds on a clock that nobody sets. */
static int64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Returns a socket from a new port to the server, or -1. */
static int socket_open(const struct addrinfo *server)
{
    int fd = socket(server->ai_family, server->ai_socktype, server->ai_protocol);

    if (fd >= 0 && connect(fd, server->ai_addr, server->ai_addrlen) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Sends the question once. Returns 0, or -1: nobody is there. */
static int question_send(int fd, int32_t number)
{
    unsigned char bytes[NUMBER];

    for (int i = 0; i < NUMBER; i++)
        bytes[i] = (unsigned char)((uint32_t)number >> 8 * i);
    /* ENOBUFS, for instance, is a loss like any other. */
    return send(fd, bytes, sizeof bytes, 0) < 0 && errno == ECONNREFUSED ? -1 : 0;
}

/* Waits for the answer, at most wait ms. Returns 1 with it, 0 without, -1: nobody. */
static int answer_wait(int fd, int wait, int32_t *number)
{
    int64_t now, end = clock_ms() + wait;
    unsigned char bytes[NUMBER + 1]; /* one more, to see that a datagram is longer */
    uint32_t value = 0;
    ssize_t n = 0;

    while (n != NUMBER && (now = clock_ms()) < end) {
        struct pollfd answer = {.fd = fd, .events = POLLIN};
        if (poll(&answer, 1, (int)(end - now)) > 0 &&
            (n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) < 0 &&
            errno == ECONNREFUSED)
            return -1;
    }
    if (n != NUMBER)
        return 0;
    for (int i = 0; i < NUMBER; i++)
        value |= (uint32_t)bytes[i] << 8 * i;
    *number = (int32_t)value;
    return 1;
}

/* Asks until there is an answer. Returns 1 with it, 0 without, -1: nobody is there. */
static int number_ask(const struct addrinfo *server, int wait, int32_t *number)
{
    int came = 0, fd = socket_open(server);

    if (fd < 0)
        return -1;
    for (int i = 0; i < TRIES && came == 0; i++)
        came = question_send(fd, *number) < 0 ? -1 : answer_wait(fd, wait << i, number);
    close(fd);
    return came;
}

int main(int argc, char **argv)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *found, *server;
    int wait = argc > 3 ? atoi(argv[3]) : FIRST_WAIT, failed, came;
    int32_t number;

    if (argc < 3 || argc > 4 || wait < 1 || wait > WAIT_MAX)
        errx(2, "usage: udp_numbers host port [ms]");
    if ((failed = getaddrinfo(argv[1], argv[2], &hints, &found)) != 0)
        errx(1, "%s: %s", argv[1], gai_strerror(failed));
    setvbuf(stdout, NULL, _IOLBF, 0);
    server = found;
    while (scanf("%" SCNd32, &number) == 1) {
        while ((came = number_ask(server, wait, &number)) < 0 && server->ai_next != NULL)
            server = server->ai_next; /* the host's next address */
        if (came != 1)
            errx(1, came < 0 ? "nobody there" : "no answer");
        printf("%" PRId32 "\n", number);
    }
    freeaddrinfo(found);
    return 0;
}
