/*
 * tcp_ipv4.c - a TCP connection between two processes, addresses made by hand
 *
 * The parent is the server, the child the client. The client writes a thousand single
 * bytes; the server reads until the end and counts. A stream keeps the order of the
 * bytes, but not where one write ended and the next began: the number of reads is
 * anything from 1 to 1000.
 *
 * The server asks for port 0, which means any free one, and learns which it got.
 *
 * Run:  tcp_ipv4
 * See:  server: listening on 127.0.0.1 port 40219
 *       client: wrote 1000 bytes in 1000 writes
 *       server: read 1000 bytes in 412 reads
 *       `diff unix_stream.c tcp_ipv4.c`: only the address is different.
 */
#include <err.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRITES = 1000 };
enum { PATIENCE = 10 }; /* seconds: a demonstration has to end, whatever goes wrong */

/* Port and address travel in network byte order, most significant byte first. */
static struct sockaddr_in address_make(in_port_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

    /* This machine only. With INADDR_ANY the server would answer on all its addresses. */
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* Stores the port it got in address. */
static int listener_open(struct sockaddr_in *address)
{
    socklen_t len = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0)
        err(1, "socket");
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        err(1, "bind");
    if (listen(fd, SOMAXCONN) < 0)
        err(1, "listen");
    if (getsockname(fd, (struct sockaddr *)address, &len) < 0)
        err(1, "getsockname");
    printf("server: listening on 127.0.0.1 port %d\n", ntohs(address->sin_port));
    return fd;
}

static int connection_open(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0)
        err(1, "socket");
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        err(1, "connect");
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

int main(void)
{
    struct sockaddr_in address = address_make(0);
    int listener, status;
    pid_t pid;

    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(PATIENCE);
    listener = listener_open(&address);
    if ((pid = fork()) < 0)
        err(1, "fork");
    if (pid == 0) {
        close(listener);
        client_run(connection_open(&address));
        return 0;
    }
    server_run(listener);
    close(listener);
    if (waitpid(pid, &status, 0) < 0)
        err(1, "waitpid");
    return status == 0 ? 0 : 1;
}
