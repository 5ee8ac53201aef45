/*
 * turtle_fork.c - a turtle for each client: one process each, on UNIX streams
 *
 * The server forks for every connection; the child talks to its client and blocks as it
 * likes, while the parent accepts the next. Simple, but each child has its own copy of
 * everything: each client has its own turtle, and the parent hears nothing until a child
 * ends and leaves it an exit code. That is how `_exit` stops the server, and why it stops
 * late: the parent sleeps in accept() and looks at the exit codes only after one more
 * client has come, who is served as usual. turtle_loop.c answers all that.
 *
 * The server also ends only when the last client has left. SOMAXCONN or the 5 below limit
 * who waits to be accepted, not who is served: that ends where fork() does.
 *
 * Run:  turtle_fork server [folder] &
 *       turtle_fork client name [folder]    the names are made there, in $TMPDIR or in .
 * Say:  run 13 10, say hello, quit (the client leaves), _exit (the server stops)
 * See:  >>: run 13 10
 *       << Turtle travel to <13:10>
 *       and what the server's processes say, each with its number
 */
#include "turtle.h"
#include "unix_name.h"

#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BACKLOG = 5 };
enum { CLIENT_LEFT = 0, STOP_SERVER = 3 }; /* exit codes of a child; 1 is err()'s */

/*
 * Reads a line into line[TURTLE_LINE + 1], as text. What is too long for that is read to
 * the end of the line, and dropped: one line, one answer. Returns whether there was one.
 */
static int line_read(FILE *from, char *line)
{
    size_t len = 0;
    int byte;

    while ((byte = getc(from)) != EOF && byte != '\n')
        if (len < TURTLE_LINE)
            line[len++] = (char)byte;
    text_make(line, len);
    return len > 0 || byte != EOF;
}

/* Serves one client until it leaves. Returns the exit code of the process. */
static int child_run(int fd)
{
    struct turtle turtle = {0, 0};
    char line[TURTLE_LINE + 1];
    char answer[TURTLE_ANSWER];
    FILE *client = fdopen(fd, "r"); /* bytes from it one by one, however they come */

    if (client == NULL)
        err(1, "fdopen");
    while (line_read(client, line)) {
        printf("server_fork %ld: received from client: %s\n", (long)getpid(), line);
        if (command_find(line, "_exit") != NULL)
            return STOP_SERVER;
        if (command_find(line, "quit") != NULL)
            return CLIENT_LEFT;
        turtle_answer(&turtle, line, answer);
        if (dprintf(fd, "%s\n", answer) < 0)
            err(1, "dprintf");
    }
    return CLIENT_LEFT; /* and whatever is open is closed by the exit */
}

/* Looks at all children that have ended. Returns whether one of them says to stop. */
static int children_reap(void)
{
    int status, stop = 0;

    while (waitpid(-1, &status, WNOHANG) > 0)
        if (WIFEXITED(status) && WEXITSTATUS(status) == STOP_SERVER)
            stop = 1;
    return stop;
}

/* Waits for one client and makes a process for it. */
static void client_accept(int listener)
{
    struct sockaddr_un name = {0};
    socklen_t len = sizeof name;
    int fd = accept(listener, (struct sockaddr *)&name, &len);
    pid_t pid;

    if (fd < 0)
        err(1, "accept");
    if ((pid = fork()) < 0) {
        warn("fork"); /* too many: this one is turned away, the others stay */
    } else if (pid == 0) {
        unix_disown();
        close(listener);
        exit(child_run(fd));
    } else {
        printf("server: process %ld serves %.*s\n", (long)pid, (int)sizeof name.sun_path,
               name.sun_path);
    }
    close(fd); /* the child has its own; left open here, the client never saw the end */
}

static void server_run(const char *folder)
{
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);

    if (listener < 0)
        err(1, "socket");
    unix_bind(listener, folder, "turtle-server");
    if (listen(listener, BACKLOG) < 0)
        err(1, "listen");
    printf("server: listening at %s\n", unix_own.sun_path);
    do
        client_accept(listener);
    while (!children_reap());
    printf("server: stopping\n");
    close(listener);
    while (wait(NULL) > 0)
        continue;
}

/* Sends one line and shows the answer. Returns whether to go on. */
static int client_step(int fd, FILE *server, const char *line)
{
    char answer[TURTLE_ANSWER];

    if (dprintf(fd, "%s\n", line) < 0)
        err(1, "the server is gone: dprintf");
    if (command_find(line, "quit") != NULL || command_find(line, "_exit") != NULL)
        return 0;
    if (fgets(answer, sizeof answer, server) == NULL)
        errx(1, "the server has closed the connection");
    printf("<< %s", answer);
    return 1;
}

static void client_run(const char *name, const char *folder)
{
    struct sockaddr_un address = unix_address(folder, "turtle-server");
    char line[TURTLE_LINE + 1];
    FILE *server;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd < 0)
        err(1, "socket");
    unix_bind(fd, folder, name); /* only for the server to see: a client needs no name */
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "connect %s", address.sun_path);
    if ((server = fdopen(fd, "r")) == NULL)
        err(1, "fdopen");
    while (fputs(">>: ", stdout) >= 0 && line_read(stdin, line))
        if (!client_step(fd, server, line))
            break;
    if (feof(stdin))
        putchar('\n'); /* after the prompt that got no answer */
    fclose(server);
}

int main(int argc, char **argv)
{
    const char *role = argc > 1 ? argv[1] : "";

    setvbuf(stdout, NULL, _IOLBF, 0); /* else what is buffered at fork() appears twice */
    signal(SIGPIPE, SIG_IGN);         /* to write to whoever has left is just an error */
    if (strcmp(role, "server") == 0 && argc <= 3)
        server_run(unix_folder(argv[2]));
    else if (strcmp(role, "client") == 0 && (argc == 3 || argc == 4))
        client_run(argv[2], unix_folder(argv[3]));
    else
        errx(2, "usage: turtle_fork server [folder] | client name [folder]");
    return 0;
}
