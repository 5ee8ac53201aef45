/*
 * mini_serv.c - the mini_serv exam subject: a chat on select(), few functions allowed
 *
 * Usage: mini_serv port
 *
 * Contract, the subject's: listens on 127.0.0.1 only. Clients are numbered from 0. Each
 * line goes to all the others as "client 0: line"; they are also told "server: client 0
 * just arrived" and "server: client 0 just left". Without exactly one argument it says
 * "Wrong number of arguments"; when a call fails before the first accept(), or memory
 * runs out, "Fatal error"; both on stderr and with exit code 1. Nobody is disconnected
 * for not reading.
 *
 * Decided here, where the subject is silent or at odds with real systems:
 *
 *   - A line is passed on when its '\n' has come, or parts of two lines could mix. What a
 *     client leaves unfinished is dropped with it.
 *   - The subject says that send() does not block after select(). On a real system
 *     select() promises room for some bytes, and a longer send() on a blocking socket
 *     sleeps until the last byte fits: one lazy client stops the chat. fcntl() is not
 *     allowed, but flags of send() are: with MSG_DONTWAIT it takes what fits. EAGAIN is
 *     never asked for: whatever the reason, what was not sent waits for the next
 *     select().
 *   - No error of send() is looked at either: recv() reports a broken connection as well.
 *     But MSG_NOSIGNAL is needed, or SIGPIPE ends the server. Where a system lacks it, it
 *     does.
 *   - fd_set has room for descriptors below FD_SETSIZE (1024), and FD_SET() does not
 *     check. A client with a higher one is closed at once, without a number.
 *   - When accept() fails, for want of descriptors perhaps, the listener would stay
 *     readable and select() would spin: it is left alone until something else happens,
 *     but no longer than a second. A full second would take a clock, and none is allowed.
 *   - Never disconnecting anybody has its price: what lazy clients do not read fills
 *     memory.
 *   - setsockopt() is not allowed, so no SO_REUSEADDR: after a stop the port may be taken
 *     for a minute. htons() is not on the list either: the address is written byte by
 *     byte.
 *   - A port outside 1..65535 is a fatal error: cut to 16 bits it would be another one.
 *   - The subject promises printable bytes, so lines are kept as strings. A '\0' is
 *     skipped: it would hide the rest of its line.
 *
 * Run:  mini_serv 8081 &  and  nc 127.0.0.1 8081  in two terminals
 * See:  server: client 1 just arrived
 *       client 1: hello
 * The functions it calls, no others in their place:
 *       cc -c -O0 -fno-builtin -U_FORTIFY_SOURCE mini_serv.c && nm -u mini_serv.o
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { RECV_MAX = 65536 }; /* bytes of one client, then the next has its turn */
enum { NUMBER_MAX = 32 };  /* holds "client 2147483647: " */
enum { PORT_MAX = 5 };     /* digits of a port */

#ifdef MSG_NOSIGNAL
enum { SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL };
#else
enum { SEND_FLAGS = MSG_DONTWAIT };
#endif

/* A string that grows at its end and shrinks at its start; empty, it has no memory. */
struct text {
    char *data;
    size_t start, end; /* the string is data[start..end), and '\0' at end */
    size_t size;
};

struct client {
    int fd;
    int id;
    struct text in;  /* the beginning of a line whose end has not come yet */
    struct text out; /* what the client has not taken yet */
    struct client *prev, *next;
};

static struct {
    int listener;
    int next_id;
    int resting; /* accept() has failed: not now */
    struct client *clients;
} server;

static void client_free(struct client *client)
{
    close(client->fd);
    free(client->in.data);
    free(client->out.data);
    free(client);
}

static _Noreturn void die(const char *message)
{
    ssize_t n = write(2, message, strlen(message));

    (void)n; /* there is nobody else to tell */
    exit(1);
}

/* Ends the program while it runs; leaves no memory and no descriptor behind. */
static _Noreturn void out_of_memory(void)
{
    while (server.clients != NULL) {
        struct client *client = server.clients;
        server.clients = client->next;
        client_free(client);
    }
    close(server.listener);
    die("Fatal error\n");
}

/* Makes room for len more bytes. Doubling the size makes copying rare. */
static void text_reserve(struct text *text, size_t len)
{
    size_t used = text->end - text->start;
    size_t size = 2 * (used + len + 1);
    char *data;

    if (text->data != NULL && len < text->size - text->end)
        return;
    if ((data = malloc(size)) == NULL)
        out_of_memory();
    if (text->data != NULL)
        strcpy(data, text->data + text->start);
    free(text->data);
    *text = (struct text){.data = data, .end = used, .size = size};
}

static void text_add(struct text *text, const char *string)
{
    size_t len = strlen(string);

    if (len == 0)
        return; /* an empty text has no memory */
    text_reserve(text, len);
    strcpy(text->data + text->end, string);
    text->end += len;
}

static void text_clear(struct text *text)
{
    free(text->data);
    *text = (struct text){.data = NULL};
}

/* Drops len bytes from the start. */
static void text_drop(struct text *text, size_t len)
{
    text->start += len;
    if (text->start == text->end)
        text_clear(text);
}

/* Queues a line, given in three parts, for everybody but one client. */
static void send_others(const struct client *but, const char *a, const char *b,
                        const char *c)
{
    for (struct client *to = server.clients; to != NULL; to = to->next)
        if (to != but) {
            text_add(&to->out, a);
            text_add(&to->out, b);
            text_add(&to->out, c);
        }
}

static void send_notice(const struct client *client, const char *what)
{
    char number[NUMBER_MAX];

    sprintf(number, "%d", client->id);
    send_others(client, "server: client ", number, what);
}

/* Takes the client out of the list and ends it. */
static void on_leave(struct client *client)
{
    send_notice(client, " just left\n");
    if (client->next != NULL)
        client->next->prev = client->prev;
    if (client->prev != NULL)
        client->prev->next = client->next;
    else
        server.clients = client->next;
    client_free(client);
}

static void on_connection(void)
{
    int fd = accept(server.listener, NULL, NULL);
    struct client *client;

    if (fd < 0) {
        server.resting = 1;
        return;
    }
    if (fd >= FD_SETSIZE) {
        close(fd);
        return;
    }
    if ((client = calloc(1, sizeof *client)) == NULL) {
        close(fd);
        out_of_memory();
    }
    client->fd = fd;
    client->id = server.next_id++;
    client->next = server.clients;
    if (client->next != NULL)
        client->next->prev = client;
    server.clients = client;
    send_notice(client, " just arrived\n");
}

/* Passes on every line that is complete with this piece, and keeps what is not. */
static void on_text(struct client *client, char *piece)
{
    char prefix[NUMBER_MAX], *end;

    sprintf(prefix, "client %d: ", client->id);
    while ((end = strstr(piece, "\n")) != NULL) {
        char next = end[1]; /* the next line's first byte, or the '\0' of the piece */
        end[1] = '\0';
        send_others(client, prefix, client->in.data ? client->in.data : "", piece);
        end[1] = next;
        piece = end + 1;
        text_clear(&client->in);
    }
    text_add(&client->in, piece);
}

static void on_readable(struct client *client)
{
    static char piece[RECV_MAX + 1];
    ssize_t n = recv(client->fd, piece, RECV_MAX, 0);
    size_t len = 0;

    if (n <= 0) {
        on_leave(client);
        return;
    }
    for (ssize_t i = 0; i < n; i++)
        if (piece[i] != '\0')
            piece[len++] = piece[i];
    piece[len] = '\0';
    on_text(client, piece);
}

/* One send for each time that select() says there is room. */
static void on_writable(struct client *client)
{
    struct text *out = &client->out;
    size_t len = out->end - out->start;
    ssize_t n = send(client->fd, out->data + out->start, len, SEND_FLAGS);

    if (n > 0)
        text_drop(out, (size_t)n);
}

/* Lists what to wait for. Returns the highest descriptor. */
static int sets_fill(fd_set *readable, fd_set *writable)
{
    int highest = server.listener;

    FD_ZERO(readable);
    FD_ZERO(writable);
    if (!server.resting)
        FD_SET((unsigned)server.listener, readable); /* musl's macro wants it so */
    for (const struct client *client = server.clients; client; client = client->next) {
        FD_SET((unsigned)client->fd, readable);
        if (client->out.data != NULL)
            FD_SET((unsigned)client->fd, writable);
        if (client->fd > highest)
            highest = client->fd;
    }
    return highest;
}

static void on_events(const fd_set *readable, const fd_set *writable)
{
    struct client *next;

    for (struct client *client = server.clients; client != NULL; client = next) {
        next = client->next; /* reading may end this client, and only this one */
        if (FD_ISSET((unsigned)client->fd, writable))
            on_writable(client);
        if (FD_ISSET((unsigned)client->fd, readable))
            on_readable(client);
    }
    if (FD_ISSET((unsigned)server.listener, readable))
        on_connection();
}

/* Port and address are written byte by byte, in network order. */
static int listener_open(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    unsigned char *port_bytes = (unsigned char *)&address.sin_port;
    unsigned char *host_bytes = (unsigned char *)&address.sin_addr;
    int fd;

    if (port < 1 || port > 65535)
        die("Fatal error\n");
    port_bytes[0] = (unsigned char)(port / 256);
    port_bytes[1] = (unsigned char)(port % 256);
    host_bytes[0] = 127;
    host_bytes[3] = 1;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd >= 0 && fd < FD_SETSIZE &&
        bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        listen(fd, SOMAXCONN) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    die("Fatal error\n");
}

int main(int argc, char **argv)
{
    if (argc != 2)
        die("Wrong number of arguments\n");
    /* Of a number that is no int, atoi() may make any other one. */
    server.listener = listener_open(strlen(argv[1]) <= PORT_MAX ? atoi(argv[1]) : 0);
    for (;;) {
        struct timeval rest = {.tv_sec = 1};
        fd_set readable, writable;
        int highest = sets_fill(&readable, &writable);
        int n = select(highest + 1, &readable, &writable, NULL,
                       server.resting ? &rest : NULL);
        server.resting = 0;
        if (n > 0)
            on_events(&readable, &writable);
    }
}
