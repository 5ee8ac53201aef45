/*
 * tcp_numbers.c - a client that sends numbers and prints the numbers that come back
 *
 *   - The host may be a name or an address: getaddrinfo() takes both, and each address
 *     that it finds is tried in turn.
 *   - A number is four bytes, the least significant first, whatever this machine's own
 *     order is: the bytes are made by shifting, never by copying an int.
 *   - One read may bring a part of a number. read_all() goes on until it is whole.
 *   - The server answers each number with one number, and may close when it likes.
 *
 * Run:  tcp_numbers host port    numbers on standard input
 * See:  the answers, a line each; exit status 0 when either side has no more to say, 1 if
 *       the server closed in the middle of a number, or nobody could be reached
 */
#include <err.h>
#include <inttypes.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NUMBER = 4 }; /* bytes of a number on the wire */

/* Returns a connection to the first address that takes one. */
static int server_dial(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int fd = -1, failed = getaddrinfo(host, port, &hints, &found);

    if (failed != 0)
        errx(1, "%s: %s", host, gai_strerror(failed));
    for (struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next) {
        if ((fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol)) < 0)
            continue;
        if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
            warn("connect %s port %s", host, port);
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd;
}

/*
 * Reads len bytes. Returns how many came before the end. A reset is one, too: a server
 * that closes while a number of ours is unread ends the connection by it.
 */
static size_t read_all(int fd, unsigned char *bytes, size_t len)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = read(fd, bytes + have, len - have);
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    return have;
}

/* Returns 0, or -1 if the server is gone. */
static int number_send(int fd, int32_t number)
{
    unsigned char bytes[NUMBER];

    for (int i = 0; i < NUMBER; i++)
        bytes[i] = (unsigned char)((uint32_t)number >> 8 * i);
    /* A blocking send takes all of so few bytes, or fails. */
    return send(fd, bytes, sizeof bytes, 0) == NUMBER ? 0 : -1;
}

/* Returns 1 with a number, 0 at the server's end, -1 if it came in the middle. */
static int number_receive(int fd, int32_t *number)
{
    unsigned char bytes[NUMBER];
    size_t n = read_all(fd, bytes, sizeof bytes);
    uint32_t value = 0;

    if (n != NUMBER)
        return n == 0 ? 0 : -1;
    for (int i = 0; i < NUMBER; i++)
        value |= (uint32_t)bytes[i] << 8 * i;
    *number = (int32_t)value;
    return 1;
}

int main(int argc, char **argv)
{
    int32_t number;
    int fd, came = 1;

    if (argc != 3)
        errx(2, "usage: tcp_numbers host port");
    signal(SIGPIPE, SIG_IGN); /* the server may close first; the next read tells */
    if ((fd = server_dial(argv[1], argv[2])) < 0)
        errx(1, "nobody there");
    while (came == 1 && scanf("%" SCNd32, &number) == 1 && number_send(fd, number) == 0)
        if ((came = number_receive(fd, &number)) == 1)
            printf("%" PRId32 "\n", number);
    close(fd);
    if (came < 0)
        errx(1, "the server closed in the middle of a number");
    return 0;
}
