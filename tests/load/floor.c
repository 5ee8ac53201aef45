/*
 * floor.c - the least that a single-threaded broadcast server can do: the yardstick
 *
 * Usage: floor [port]        (default 3100; 0: any free port; it prints which)
 *
 * For each readable client one recv(2) of up to 64 KiB, then one send(2) to every client.
 * No framing, no log, no backlog, no clock: what a chat server costs beyond this is the
 * price of its features. Only a server that collects what several clients have said and
 * sends it together can cost less, and does when many speak at a time.
 *
 * A yardstick must stay as cheap as such a server can be. No number in this file is taken
 * from final/, and none may follow it: if final/ gets slower, this must not.
 *
 * It greets with `Welcome`, as the assignment asks, so chatload can measure it like any
 * other server. What it leaves out, and what makes up for that:
 *   - Whole messages. What one recv brings goes out as it is; a message that a recv cuts
 *     in two can be mixed with another client's. On loopback a small send arrives whole,
 *     and chatload checks every byte: it has not happened in a measured run.
 *   - Slow readers. A send that would block ends the program with a message, since bytes
 *     must not be lost silently. chatload's window keeps what is in flight smaller than
 *     the socket buffers.
 */
#include "../../final/evloop.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { READ_MAX = 64 * 1024 }; /* bytes per recv: beyond this, larger is no cheaper */

static struct {
    int loop;
    int listener;
    int *clients; /* descriptors, without gaps */
    int count;
    int *place; /* place[fd]: where fd stands in clients */
    int limit;  /* descriptors that this process can have */
} server;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Everything goes out at once; anything less ends the program. */
static void send_all(int fd, const char *bytes, size_t len)
{
    ssize_t n = send(fd, bytes, len, MSG_DONTWAIT);

    if (n >= 0 ? (size_t)n < len : errno == EAGAIN || errno == EWOULDBLOCK) {
        fprintf(stderr, "floor: client %d reads too slowly: send would block\n", fd);
        exit(1);
    }
    /* Other errors: the client is gone, and its next recv says so. */
}

static void client_open(int fd)
{
    static const char greeting[] = "Welcome to the floor!\n";

    if (evloop_add(server.loop, fd, EVLOOP_READ, &server.place[fd]) < 0)
        fail("floor: evloop_add");
    server.place[fd] = server.count;
    server.clients[server.count++] = fd;
    send_all(fd, greeting, sizeof greeting - 1);
}

/* The last client takes the place of the one that goes. */
static void client_close(int fd)
{
    int last = server.clients[--server.count];

    server.clients[server.place[fd]] = last;
    server.place[last] = server.place[fd];
    evloop_del(server.loop, fd, EVLOOP_READ);
    close(fd);
}

static void on_connectable(void)
{
    int fd;

    while ((fd = accept(server.listener, NULL, NULL)) >= 0)
        client_open(fd);
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ECONNABORTED)
        fail("floor: accept");
}

static void on_readable(int fd)
{
    char bytes[READ_MAX];
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);

    if (n > 0)
        for (int i = 0; i < server.count; i++)
            send_all(server.clients[i], bytes, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        client_close(fd);
}

/* Tables for as many as the descriptor limit allows: nothing grows while measured. */
static void tables_allocate(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        fail("floor: getrlimit");
    files.rlim_cur = files.rlim_max < 1000000 ? files.rlim_max : 1000000;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        fail("floor: setrlimit");
    server.limit = (int)files.rlim_cur;
    server.clients = calloc((size_t)server.limit, sizeof *server.clients);
    server.place = calloc((size_t)server.limit, sizeof *server.place);
    if (!server.clients || !server.place)
        fail("floor: calloc");
}

static void listener_open(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((in_port_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int yes = 1;

    server.listener = socket(AF_INET, SOCK_STREAM, 0);
    if (server.listener < 0)
        fail("floor: socket");
    setsockopt(server.listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    /* Accepted sockets inherit this, on Linux and on the BSDs: no call per client. */
    setsockopt(server.listener, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(server.listener, (struct sockaddr *)&address, sizeof address) < 0)
        fail("floor: bind");
    if (listen(server.listener, SOMAXCONN) < 0)
        fail("floor: listen");
    if (fcntl(server.listener, F_SETFL, O_NONBLOCK) < 0)
        fail("floor: fcntl");
    if (getsockname(server.listener, (struct sockaddr *)&address, &len) < 0)
        fail("floor: getsockname");
    printf("listening on port %d\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char *argv[])
{
    struct evloop_event events[EVLOOP_BATCH];

    signal(SIGPIPE, SIG_IGN);
    tables_allocate();
    listener_open(argc > 1 ? atoi(argv[1]) : 3100);
    server.loop = evloop_open();
    if (server.loop < 0 ||
        evloop_add(server.loop, server.listener, EVLOOP_READ, &server.listener) < 0)
        fail("floor: evloop");

    for (;;) {
        int n = evloop_wait(server.loop, events, EVLOOP_BATCH, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data == &server.listener)
                on_connectable();
            else
                on_readable((int)((int *)events[i].data - server.place));
    }
}
