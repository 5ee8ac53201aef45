/*
 * chatload_conn.c - one connection of the load tester
 *
 * Every function either works or ends the program: to a tester, a broken connection is a
 * result, not something to recover from.
 */
#include "../../final/evloop.h"
#include "chatload.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* From one address to one port there can be as many connections as ephemeral ports,
     * 28,232 on Linux by default. Once half of them are in use, connect(2) searches ever
     * longer for a free one, so use fewer. */
    PER_SOURCE = 14000,
    SOURCES_MAX = 254
};

/* A stalled client stands for one across a network, for which the kernel keeps little. By
 * default, loopback would keep 3 MB for each, and the server would not notice them. */
enum { STALLED_RCVBUF = 4096, STALLED_SEGMENT = 1460 };

static void option_set(int fd, int level, int option, int value)
{
    if (setsockopt(fd, level, option, &value, sizeof value) < 0)
        fail_errno("setsockopt %d", option);
}

/* Lets connect(2) choose the port, which then has to be free for that peer only. */
static void port_choose_late(int fd)
{
#ifdef IP_BIND_ADDRESS_NO_PORT
    option_set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
#else
    (void)fd;
#endif
}

/* Binds to 127.0.0.2, 127.0.0.3 ... when the ports of 127.0.0.1 would not suffice. */
static void source_choose(const struct load *load, int fd, size_t number)
{
    const struct sockaddr_in *server = (const struct sockaddr_in *)&load->address;
    size_t source = number / PER_SOURCE;
    struct sockaddr_in address = {.sin_family = AF_INET};
    char text[INET_ADDRSTRLEN];

    if (source == 0)
        return;
    if (server->sin_family != AF_INET || ntohl(server->sin_addr.s_addr) >> 24 != 127)
        fail("more than %d connections need a server on 127.0.0.0/8", PER_SOURCE);
    if (source >= SOURCES_MAX)
        fail("more than %d connections are too many", PER_SOURCE * SOURCES_MAX);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)source);
    inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
    port_choose_late(fd);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail_errno("connection %zu: bind %s", number, text);
}

/* Changes what is waited for. */
static void conn_watch(struct load *load, struct conn *conn, int interest)
{
    if (evloop_mod(load->loop, conn->fd, conn->interest, interest, conn) < 0)
        fail_errno("connection %zu: evloop_mod", conn->number);
    conn->interest = interest;
}

void conn_open(struct load *load, struct conn *conn, enum conn_kind kind, size_t number)
{
    const struct dialect *dialect = load->options.dialect;
    int fd = socket(load->address.ss_family, SOCK_STREAM, 0);

    if (fd < 0)
        fail_errno("connection %zu: socket", number);
    *conn = (struct conn){.fd = fd, .number = number, .line = 1, .opened = clock_ns()};
    conn->joining = kind == PUBLISHER ? &dialect->publisher : &dialect->member;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        fail_errno("connection %zu: fcntl", number);
    option_set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (kind == STALLED) {
        option_set(fd, SOL_SOCKET, SO_RCVBUF, STALLED_RCVBUF);
        option_set(fd, IPPROTO_TCP, TCP_MAXSEG, STALLED_SEGMENT);
    }
    source_choose(load, fd, number);
    if (connect(fd, (struct sockaddr *)&load->address, load->address_len) < 0 &&
        errno != EINPROGRESS)
        fail_errno("connection %zu: connect", number);
    conn_write(conn, conn->joining->request, strlen(conn->joining->request));
    conn_watch(load, conn, conn->out_len ? EVLOOP_READ | EVLOOP_WRITE : EVLOOP_READ);
}

void conn_close(struct load *load, struct conn *conn)
{
    conn_watch(load, conn, 0);
    close(conn->fd);
    free(conn->out);
}

void conn_write(struct conn *conn, const char *bytes, size_t len)
{
    if (conn->out_len + len > conn->out_room) {
        conn->out_room = 2 * (conn->out_len + len);
        conn->out = realloc(conn->out, conn->out_room);
        if (!conn->out)
            fail("out of memory");
    }
    if (len)
        memcpy(conn->out + conn->out_len, bytes, len);
    conn->out_len += len;
}

void conn_flush(struct load *load, struct conn *conn)
{
    ssize_t n = send(conn->fd, conn->out, conn->out_len, 0);

    if (n >= 0) {
        conn->out_len -= (size_t)n;
        memmove(conn->out, conn->out + n, conn->out_len);
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        fail_errno("connection %zu: send", conn->number);
    }
    conn_watch(load, conn, conn->out_len ? EVLOOP_READ | EVLOOP_WRITE : EVLOOP_READ);
}

void conn_stall(struct load *load, struct conn *conn)
{
    conn_watch(load, conn, 0);
}

size_t conn_read(struct conn *conn, char *bytes, size_t room)
{
    ssize_t n = recv(conn->fd, bytes, room, 0);

    if (n > 0)
        return (size_t)n;
    if (n == 0)
        fail("connection %zu: the server closed it", conn->number);
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        fail_errno("connection %zu: recv", conn->number);
    return 0;
}

/* Takes the next byte of the answer. Returns true if the answer ends with it. */
static bool on_answer(struct conn *conn, const char *bytes, size_t len)
{
    const struct joining *joining = conn->joining;

    if (conn->line == joining->lines && conn->column < strlen(joining->last) &&
        *bytes != joining->last[conn->column]) {
        char text[QUOTED_SIZE];
        fail("connection %zu: line %d from the server should begin with '%s', but byte "
             "%zu is the first of %s",
             conn->number, conn->line, joining->last, conn->column + 1,
             quote(text, bytes, len));
    }
    conn->column++;
    if (*bytes != '\n')
        return false;
    conn->line++;
    conn->column = 0;
    return conn->line > joining->lines;
}

bool conn_join(struct conn *conn)
{
    char bytes[4096];
    size_t n = conn_read(conn, bytes, sizeof bytes);

    for (size_t i = 0; i < n; i++)
        if (on_answer(conn, bytes + i, n - i)) {
            if (i + 1 < n)
                fail("connection %zu: %zu bytes after the greeting, before any message",
                     conn->number, n - i - 1);
            conn->joining = NULL;
            return true;
        }
    return false;
}

size_t conn_ping(struct load *load, struct conn *conn, const char *bytes, size_t len)
{
    const struct dialect *dialect = load->options.dialect;
    size_t ping = dialect->ping ? strlen(dialect->ping) : 0;

    if (ping == 0 || len < ping || memcmp(bytes, dialect->ping, ping) != 0)
        return 0;
    conn_write(conn, dialect->pong, strlen(dialect->pong));
    conn_flush(load, conn);
    return ping;
}

void conn_expect_nothing(struct load *load, struct conn *conn)
{
    char bytes[4096];
    size_t n = conn_read(conn, bytes, sizeof bytes);

    if (n > 0 && conn_ping(load, conn, bytes, n) != n)
        fail("connection %zu: %zu bytes that nobody sent", conn->number, n);
}

void conn_check_deadline(const struct load *load, const struct conn *conn, uint64_t now)
{
    if (conn->joining && now - conn->opened > load->options.deadline)
        fail("late: connection %zu was not greeted within %.3f s", conn->number,
             (double)load->options.deadline / SECOND);
}
