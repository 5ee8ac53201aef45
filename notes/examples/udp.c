/*
 * udp.c - datagrams over IPv4: sendto(), and what connect() does to a UDP socket
 *
 * The parent is the server, the child the client. The client sends datagrams in each of
 * the ways there are; one is longer than the server's buffer, one is empty.
 *
 *   - sendto() names the receiver each time.
 *   - connect() sends nothing: it stores the receiver for send() and write(), lets only
 *     that peer's datagrams in, and reports if nobody is there.
 *   - Each read takes one datagram: what the buffer cannot hold is lost.
 *   - An empty datagram is a datagram: 0 is not the end of anything.
 *
 * Datagrams may get lost, so whoever waits for one needs a deadline.
 *
 * Run:  udp
 * See:  the lines of the two processes, mixed, for instance
 *       client: sendto() took 7 bytes
 *       server: 7 bytes from port 51322: hello 1
 *       client: from a closed port: Connection refused
 */
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DATAGRAM_MAX = 16 }; /* small, to see a longer one cut */
enum { PATIENCE = 5 };      /* seconds to wait for a datagram that may be lost */

/* A UDP socket on any free port of 127.0.0.1, which is stored in address. */
static int socket_open(struct sockaddr_in *address)
{
    struct timeval patience = {.tv_sec = PATIENCE};
    socklen_t len = sizeof *address;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    *address = (struct sockaddr_in){.sin_family = AF_INET};
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        err(1, "socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0)
        err(1, "setsockopt");
    if (bind(fd, (struct sockaddr *)address, len) < 0)
        err(1, "bind");
    if (getsockname(fd, (struct sockaddr *)address, &len) < 0)
        err(1, "getsockname");
    return fd;
}

static void socket_connect(int fd, const struct sockaddr_in *address)
{
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        err(1, "connect");
}

static void sent(const char *call, ssize_t n)
{
    if (n < 0)
        err(1, "%s", call);
    printf("client: %s took %zd bytes\n", call, n);
}

/* Sends to a port that nobody has: a connected socket is told, by the next call. */
static void nobody_ask(void)
{
    struct sockaddr_in own, nobody;
    char byte = 'x';
    int fd = socket_open(&own);

    close(socket_open(&nobody)); /* a port that was free a moment ago, and is again */
    socket_connect(fd, &nobody);
    if (send(fd, &byte, 1, 0) < 0)
        err(1, "send");
    if (recv(fd, &byte, 1, 0) >= 0)
        errx(1, "a closed port has answered");
    printf("client: from a closed port: %s\n", strerror(errno));
    close(fd);
}

static void client_run(const struct sockaddr_in *server)
{
    const struct sockaddr *to = (const struct sockaddr *)server;
    char answer[DATAGRAM_MAX];
    struct sockaddr_in own;
    ssize_t n;
    int fd = socket_open(&own);

    sent("sendto()", sendto(fd, "hello 1", 7, 0, to, sizeof *server));
    socket_connect(fd, server);
    sent("send()", send(fd, "hello 2", 7, 0));
    sent("write()", write(fd, "hello 3", 7));
    sent("send()", send(fd, "abcdefghijklmnopqrstuvwxyz", 26, 0));
    sent("send()", send(fd, "", 0, 0));
    sent("send()", send(fd, "bye", 3, 0));
    if ((n = recv(fd, answer, sizeof answer, 0)) < 0)
        err(1, "no answer: recv");
    printf("client: the server says: %.*s\n", (int)n, answer);
    close(fd);
    nobody_ask();
}

/* Serves until somebody says bye. One socket serves any number of clients. */
static void server_run(int fd)
{
    char bytes[DATAGRAM_MAX];
    struct sockaddr_in from;
    ssize_t n;

    do {
        socklen_t len = sizeof from;
        n = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &len);
        if (n < 0)
            err(1, "recvfrom");
        printf("server: %zd bytes from port %d: %.*s\n", n, ntohs(from.sin_port), (int)n,
               bytes);
    } while (n != 3 || memcmp(bytes, "bye", 3) != 0);
    if (sendto(fd, "bye yourself", 12, 0, (struct sockaddr *)&from, sizeof from) < 0)
        err(1, "sendto");
}

int main(void)
{
    struct sockaddr_in address;
    int status, fd = socket_open(&address);
    pid_t pid;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if ((pid = fork()) < 0)
        err(1, "fork");
    if (pid == 0) {
        close(fd);
        client_run(&address);
        return 0;
    }
    server_run(fd);
    close(fd);
    if (waitpid(pid, &status, 0) < 0)
        err(1, "waitpid");
    return status == 0 ? 0 : 1;
}
