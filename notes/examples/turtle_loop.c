/*
 * turtle_loop.c - one turtle for all clients: one process, one event loop, UNIX streams
 *
 * The same commands as turtle_fork.c, whose client serves here too, and what it cannot
 * do:
 *
 *   - There is one turtle. All clients move it, each whenever it likes: commands are
 *     obeyed one after the other as they arrive, and there is nothing to lock.
 *   - `getcid` tells the client's number: its place in the table, so no two that are
 *     connected have the same, and one that has become free is given again.
 *   - `_exit` stops the server for newcomers at once: the process that hears it is the
 *     one that listens. Whoever is connected may stay; then the server ends.
 *   - What happens is appended to a log file; the terminal stays clean.
 *
 * A client that does not read its answers is not read from: so it can neither hold up the
 * others nor fill the memory.
 *
 * Run:  turtle_loop logfile [folder] &
 *       turtle_fork client name [folder]    the names are made there, in $TMPDIR or in .
 * Say:  run 13 10, say hello, getcid, quit (the client leaves), _exit (the server stops)
 * See:  >>: getcid
 *       << 0
 *       tail -f logfile
 */
#include "evloop.h"
#include "turtle.h"
#include "unix_name.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS_MAX = 64 }; /* far below the usual limits of descriptors: 256 and more */
enum { IN_MAX = 1024 };    /* bytes that wait to be obeyed; more than a line */

struct client {
    int fd;       /* -1: this place is free */
    int interest; /* READ, or WRITE while bytes of an answer wait */
    char in[IN_MAX];
    size_t in_len;
    char out[TURTLE_ANSWER + 1];
    size_t out_len;
};

static struct {
    int loop;
    int listener; /* -1 after _exit */
    FILE *log;
    struct turtle turtle;
    struct client clients[CLIENTS_MAX];
    int connected;
} server;

static int client_number(const struct client *client)
{
    return (int)(client - server.clients);
}

static void client_close(struct client *client, const char *reason)
{
    fprintf(server.log, "client %d: left (%s)\n", client_number(client), reason);
    evloop_del(server.loop, client->fd, client->interest);
    close(client->fd);
    client->fd = -1;
    server.connected--;
}

static void client_open(int fd)
{
    struct client *client = server.clients;

    while (client < server.clients + CLIENTS_MAX && client->fd >= 0)
        client++;
    if (client == server.clients + CLIENTS_MAX || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        evloop_add(server.loop, fd, EVLOOP_READ, client) < 0) {
        fprintf(server.log, "a client was turned away\n");
        close(fd);
        return;
    }
    *client = (struct client){.fd = fd, .interest = EVLOOP_READ};
    server.connected++;
    fprintf(server.log, "client %d: came\n", client_number(client));
}

/* Lets nobody in any more; who waits to be accepted is turned away by the close. */
static void listener_close(void)
{
    if (server.listener < 0)
        return;
    fprintf(server.log, "stopping\n");
    unix_unname();
    evloop_del(server.loop, server.listener, EVLOOP_READ);
    close(server.listener);
    server.listener = -1;
}

static void on_connection(void)
{
    int fd = accept(server.listener, NULL, NULL);

    if (fd >= 0)
        client_open(fd);
    else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        err(1, "accept");
}

/* Obeys a line, leaves the answer in out. Returns 0, or -1 if the client has left. */
static int on_line(struct client *client, const char *line)
{
    char answer[TURTLE_ANSWER];

    fprintf(server.log, "client %d: %s\n", client_number(client), line);
    if (command_find(line, "_exit") != NULL)
        listener_close();
    if (command_find(line, "_exit") != NULL || command_find(line, "quit") != NULL) {
        client_close(client, "as it wished");
        return -1;
    }
    if (command_find(line, "getcid") != NULL)
        snprintf(answer, sizeof answer, "%d", client_number(client));
    else
        turtle_answer(&server.turtle, line, answer);
    client->out_len = (size_t)snprintf(client->out, sizeof client->out, "%s\n", answer);
    return 0;
}

/* Returns the len of the first line that has come, '\n' included; 0: none has. */
static size_t line_find(const struct client *client)
{
    const char *end = memchr(client->in, '\n', client->in_len);

    return end != NULL ? (size_t)(end + 1 - client->in) : 0;
}

/* Returns 0 after sending what there was room for, or -1 if the client is gone. */
static int client_flush(struct client *client)
{
    ssize_t n = send(client->fd, client->out, client->out_len, 0);

    if (n >= 0) {
        client->out_len -= (size_t)n;
        memmove(client->out, client->out + n, client->out_len);
    } else if (errno != EAGAIN && errno != EINTR) {
        client_close(client, strerror(errno));
        return -1;
    }
    return 0;
}

/* Obeys lines for as long as the answers can be sent. Returns as client_flush() does. */
static int client_obey(struct client *client)
{
    char line[TURTLE_LINE + 1];
    size_t len;

    while (client->out_len == 0 && (len = line_find(client)) > 0) {
        size_t text_len = len - 1 < TURTLE_LINE ? len - 1 : TURTLE_LINE;
        memcpy(line, client->in, text_len);
        text_make(line, text_len);
        client->in_len -= len;
        memmove(client->in, client->in + len, client->in_len);
        if (on_line(client, line) < 0 || client_flush(client) < 0)
            return -1;
    }
    return 0;
}

/* Called while no line waits, so that there is room. Returns as client_flush() does. */
static int client_read(struct client *client)
{
    ssize_t n = recv(client->fd, client->in + client->in_len,
                     sizeof client->in - client->in_len, 0);

    if (n > 0) {
        client->in_len += (size_t)n;
        if (client->in_len == IN_MAX && line_find(client) == 0)
            client->in_len = TURTLE_LINE; /* the rest of so long a line is dropped */
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        client_close(client, n == 0 ? "end of file" : strerror(errno));
        return -1;
    }
    return 0;
}

/* Either an answer waits for room, or the client is listened to: never both. */
static void on_client(struct client *client)
{
    int writing = client->interest == EVLOOP_WRITE;
    int interest;

    if ((writing ? client_flush(client) : client_read(client)) < 0 ||
        client_obey(client) < 0)
        return;
    interest = client->out_len > 0 ? EVLOOP_WRITE : EVLOOP_READ;
    if (evloop_mod(server.loop, client->fd, client->interest, interest, client) < 0)
        client_close(client, strerror(errno));
    else
        client->interest = interest;
}

static void server_open(const char *logfile, const char *folder)
{
    if ((server.log = fopen(logfile, "a")) == NULL)
        err(1, "fopen %s", logfile);
    setvbuf(server.log, NULL, _IOLBF, 0);
    for (int i = 0; i < CLIENTS_MAX; i++)
        server.clients[i].fd = -1;
    if ((server.loop = evloop_open()) < 0)
        err(1, "evloop_open");
    if ((server.listener = socket(AF_UNIX, SOCK_STREAM, 0)) < 0)
        err(1, "socket");
    unix_bind(server.listener, folder, "turtle-server");
    if (fcntl(server.listener, F_SETFL, O_NONBLOCK) < 0)
        err(1, "fcntl");
    if (listen(server.listener, SOMAXCONN) < 0)
        err(1, "listen");
    if (evloop_add(server.loop, server.listener, EVLOOP_READ, NULL) < 0)
        err(1, "evloop_add");
    fprintf(server.log, "started, process %ld\n", (long)getpid());
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3)
        errx(2, "usage: turtle_loop logfile [folder]");
    signal(SIGPIPE, SIG_IGN);
    server_open(argv[1], unix_folder(argv[2]));
    while (server.listener >= 0 || server.connected > 0) {
        struct evloop_event event; /* one a time: a place may soon be another client's */
        int n = evloop_wait(server.loop, &event, 1, -1);
        if (n < 0)
            err(1, "evloop_wait");
        if (n > 0 && event.data == NULL)
            on_connection();
        else if (n > 0)
            on_client(event.data);
    }
    fprintf(server.log, "stopped\n");
    fclose(server.log);
    close(server.loop);
    return 0;
}
