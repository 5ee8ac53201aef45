/*
 * tcp_ipv6.c - TCP over IPv6 or IPv4: getaddrinfo(), and a client that tries every
 * address
 *
 * A name may stand for many addresses, of both families, and the first need not answer.
 * The client asks getaddrinfo() for all and takes the first that accepts. Nothing in it
 * mentions a family: such a program needs no change for the next one.
 *
 * Alone it shows this on itself: for each of this machine's own addresses, usually ::1
 * and 127.0.0.1, a server listens there and nowhere else; the client knows only the port.
 *
 * Run:  tcp_ipv6                     or, as a client only,  tcp_ipv6 localhost 3100
 * See:  server: 127.0.0.1 port 41935: listening
 *       client: ::1 port 41935: Connection refused
 *       client: 127.0.0.1 port 41935: connected
 *       client: wrote 1000 bytes in 1000 writes
 *       server: read 1000 bytes in 405 reads
 */
#include <err.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRITES = 1000 };
enum { PATIENCE = 10 }; /* seconds: a demonstration has to end, whatever goes wrong */

/* Without a host: this machine's loopback addresses. freeaddrinfo() releases the list. */
static struct addrinfo *addresses_find(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    int error = getaddrinfo(host, port, &hints, &list);

    if (error != 0)
        errx(1, "%s: %s", host != NULL ? host : port, gai_strerror(error));
    return list;
}

static void result_print(const char *who, const struct addrinfo *a, const char *port,
                         const char *result)
{
    char host[NI_MAXHOST];
    int error = getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, NULL, 0,
                            NI_NUMERICHOST);

    if (error != 0)
        errx(1, "getnameinfo: %s", gai_strerror(error));
    printf("%s: %s port %s: %s\n", who, host, port, result);
}

/* Gives one address a try. Returns the connection or -1. */
static int address_connect(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);

    if (fd < 0 || connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    int error = errno;
    close(fd); /* after a failure the next address needs a new socket */
    errno = error;
    return -1;
}

/* Returns the connection, or -1 when no address of the host accepts one. */
static int connection_open(const char *host, const char *port)
{
    struct addrinfo *list = addresses_find(host, port);
    int fd = -1;

    for (const struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
        fd = address_connect(a);
        result_print("client", a, port, fd < 0 ? strerror(errno) : "connected");
    }
    freeaddrinfo(list);
    return fd;
}

/* Stores the port it got, as text. Returns -1 if this machine lacks the address. */
static int listener_open(const struct addrinfo *a, char *port, socklen_t size)
{
    struct sockaddr_storage address; /* room for any family's */
    socklen_t len = sizeof address;
    int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);

    if (fd < 0 || bind(fd, a->ai_addr, a->ai_addrlen) < 0) {
        result_print("server", a, "0", strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    if (listen(fd, SOMAXCONN) < 0)
        err(1, "listen");
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        err(1, "getsockname");
    if (getnameinfo((struct sockaddr *)&address, len, NULL, 0, port, size,
                    NI_NUMERICSERV) != 0)
        errx(1, "getnameinfo failed");
    result_print("server", a, port, "listening");
    return fd;
}

static void client_run(int fd)
{
    for (int i = 0; i < WRITES; i++)
        if (write(fd, "X", 1) != 1)
            err(1, "write");
    printf("client: wrote %d bytes in %d writes\n", WRITES, WRITES);
    close(fd);
}

static void server_run(int listener)
{
    char bytes[WRITES];
    int total = 0, reads = 0;
    ssize_t n;
    int fd = accept(listener, NULL, NULL);

    if (fd < 0)
        err(1, "accept");
    while ((n = read(fd, bytes, sizeof bytes)) > 0) {
        total += (int)n;
        reads++;
    }
    if (n < 0)
        err(1, "read");
    printf("server: read %d bytes in %d reads\n", total, reads);
    close(fd);
}

/* A server at one address, and a client that has to find it. Returns the exit code. */
static int demonstrate(const struct addrinfo *a)
{
    char port[NI_MAXSERV];
    int status;
    pid_t pid;
    int listener = listener_open(a, port, sizeof port);

    if (listener < 0)
        return 0;
    if ((pid = fork()) < 0)
        err(1, "fork");
    if (pid == 0) {
        int fd = connection_open(NULL, port);
        if (fd >= 0)
            client_run(fd);
        exit(fd < 0);
    }
    server_run(listener);
    close(listener);
    if (waitpid(pid, &status, 0) < 0)
        err(1, "waitpid");
    return status == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    int result = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3)
        return connection_open(argv[1], argv[2]) < 0;
    if (argc != 1)
        errx(2, "usage: tcp_ipv6 [host port]");
    alarm(PATIENCE);
    struct addrinfo *own = addresses_find(NULL, "0");
    for (const struct addrinfo *a = own; a != NULL && result == 0; a = a->ai_next)
        result = demonstrate(a);
    freeaddrinfo(own);
    return result;
}
