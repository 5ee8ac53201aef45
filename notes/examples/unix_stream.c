/*
 * unix_stream.c - a stream between two processes that meet at a name in the file system
 *
 * The parent is the server, the child the client. The client writes a thousand single
 * bytes; the server reads until the end and counts. A stream keeps the order of the
 * bytes, but not where one write ended and the next began: the number of reads is
 * anything from 1 to 1000.
 *
 * The server listens before the client exists, so nobody has to sleep and hope.
 *
 * Run:  unix_stream [folder]          the name is made there, in $TMPDIR or in .
 * See:  client: wrote 1000 bytes in 1000 writes
 *       server: read 1000 bytes in 37 reads
 *       `diff unix_stream.c tcp_ipv4.c`: only the address is different.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRITES = 1000 };
enum { PATIENCE = 10 }; /* seconds: a demonstration has to end, whatever goes wrong */

static struct sockaddr_un address_make(const char *folder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int len = snprintf(address.sun_path, sizeof address.sun_path, "%s/unix_stream-%ld",
                       folder, (long)getpid());

    if (len < 0 || (size_t)len >= sizeof address.sun_path)
        errx(1, "%s: a socket's name has %zu bytes at most", folder,
             sizeof address.sun_path - 1);
    return address;
}

static int listener_open(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd < 0)
        err(1, "socket");
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        err(1, "bind %s", address->sun_path);
    if (listen(fd, SOMAXCONN) < 0)
        err(1, "listen");
    return fd;
}

static int connection_open(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd < 0)
        err(1, "socket");
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        err(1, "connect %s", address->sun_path);
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

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : getenv("TMPDIR");
    struct sockaddr_un address = address_make(folder != NULL ? folder : ".");
    int listener = listener_open(&address);
    int status;
    pid_t pid;

    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(PATIENCE);
    if ((pid = fork()) < 0)
        err(1, "fork");
    if (pid == 0) {
        close(listener);
        client_run(connection_open(&address));
        return 0;
    }
    server_run(listener);
    close(listener);
    unlink(address.sun_path); /* the name outlives the socket */
    if (waitpid(pid, &status, 0) < 0)
        err(1, "waitpid");
    return status == 0 ? 0 : 1;
}
