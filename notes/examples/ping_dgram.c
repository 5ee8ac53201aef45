/*
 * ping_dgram.c - ping and pong between local processes, by datagrams
 *
 * There is no connection: each datagram arrives with its sender's name, and the server
 * sends the answer there. That is why any number of clients can be served by one socket
 * and one process, in the order in which they ask; and why each client needs a name of
 * its own. With one name for all clients the second one takes it over, and the answers
 * with it.
 *
 * Answers that a client does not read count against the server's one send buffer, on
 * Linux: some hundred of them, and no client gets an answer any more. A stream has a
 * buffer for each connection; that is one reason why chats use streams.
 *
 * The server answers `ping` with pong! and anything else with wrong string!; `quit` stops
 * the server and the client. End of file stops only the client. A message has 39 bytes at
 * most: a longer line is sent as several messages.
 *
 * Run:  ping_dgram server [folder]    and, in one or more other terminals,
 *       ping_dgram client [folder]    the names are made there, in $TMPDIR or in .
 * See:  type the string: ping
 *       client: server answered: pong!
 *       and on the server's terminal
 *       server: received from /tmp/ping-client-4711: ping
 */
#include "unix_name.h"

#include <ctype.h>
#include <err.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { MESSAGE_SIZE = 40 }; /* bytes of a message, and one for the '\0' behind it */
enum { PATIENCE = 5 };      /* seconds to wait for an answer */

static int socket_open(const char *folder, const char *name)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    if (fd < 0)
        err(1, "socket");
    unix_bind(fd, folder, name);
    return fd;
}

/* Makes len bytes a string that is safe to print: what is no text becomes a dot. */
static void text_make(char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (iscntrl((unsigned char)bytes[i]))
            bytes[i] = '.';
    bytes[len] = '\0';
}

static const char *answer_to(const char *text)
{
    if (strcmp(text, "quit") == 0)
        return "quit_flag now!";
    return strcmp(text, "ping") == 0 ? "pong!" : "wrong string!";
}

/* Serves one message. Returns whether to go on. */
static int server_step(int fd)
{
    struct sockaddr_un from = {0};
    socklen_t from_len = sizeof from;
    char text[MESSAGE_SIZE];
    const char *answer;
    struct sockaddr *address = (struct sockaddr *)&from;
    ssize_t n = recvfrom(fd, text, sizeof text - 1, 0, address, &from_len);

    if (n < 0)
        err(1, "recvfrom");
    text_make(text, (size_t)n);
    printf("server: received from %.*s: %s\n", (int)sizeof from.sun_path, from.sun_path,
           text);
    answer = answer_to(text);
    /* Never waits: a client that reads no answers would stop the server for everybody. */
    if (sendto(fd, answer, strlen(answer), MSG_DONTWAIT, address, from_len) < 0)
        warn("no answer sent: sendto");
    return strcmp(text, "quit") != 0;
}

static void server_run(const char *folder)
{
    int fd = socket_open(folder, "ping-server");

    while (server_step(fd))
        continue;
    close(fd);
}

/* Sends one line and shows the answer. Returns whether to go on. */
static int client_step(int fd, const char *line)
{
    char text[MESSAGE_SIZE];
    ssize_t n;

    if (send(fd, line, strlen(line), 0) < 0)
        err(1, "the server is gone: send");
    if ((n = recv(fd, text, sizeof text - 1, 0)) < 0)
        err(1, "no answer: recv");
    text_make(text, (size_t)n);
    printf("client: server answered: %s\n", text);
    return strcmp(line, "quit") != 0;
}

static void client_run(const char *folder)
{
    struct sockaddr_un server = unix_address(folder, "ping-server");
    struct timeval patience = {.tv_sec = PATIENCE};
    char name[40], line[MESSAGE_SIZE];
    int fd, next, more = 1;

    snprintf(name, sizeof name, "ping-client-%ld", (long)getpid());
    fd = socket_open(folder, name);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0)
        err(1, "setsockopt");
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
        err(1, "connect %s", server.sun_path);
    while (more && fputs("type the string: ", stdout) >= 0 &&
           fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strlen(line) == MESSAGE_SIZE - 1 && (next = getchar()) != '\n')
            ungetc(next, stdin); /* the line goes on */
        more = client_step(fd, line);
    }
    if (more)
        putchar('\n'); /* after the prompt that got no answer */
    close(fd);
}

int main(int argc, char **argv)
{
    const char *role = argc > 1 ? argv[1] : "";
    const char *folder = unix_folder(argc > 2 ? argv[2] : NULL);

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(role, "server") == 0)
        server_run(folder);
    else if (strcmp(role, "client") == 0)
        client_run(folder);
    else
        errx(2, "usage: ping_dgram server|client [folder]");
    return 0;
}
