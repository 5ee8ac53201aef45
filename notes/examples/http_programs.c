/*
 * http_programs.c - a homework: the web server of http_files.c, which also runs programs
 *
 * A file that may be executed is run, and what it prints is the answer's body.
 *
 *   - Its standard output is a pipe to the client's process, its standard input is empty,
 *     its standard error is the server's. It has no other descriptor.
 *   - It runs in its own folder. Its environment is PATH and the variables of CGI
 *     (RFC 3875) below, and nothing else that the server has in its own.
 *   - A new program inherits which signals are blocked and which are ignored. Here the
 *     same ones are blocked as when the server was started; those that the server itself
 *     catches or ignores have their default action again, all others stay as they were.
 *   - It has a process group of its own: a ^C, which is meant for the server, does not
 *     reach it. And all of the group is killed when its output has ended, when nothing
 *     came for `patience` seconds, or when the client does not take it.
 *   - Without any output, and with an exit code other than 0, it has failed: status 500.
 *
 * Whoever can write in the folder can run programs here: it listens on 127.0.0.1 only.
 *
 * Run:  http_programs folder [port [patience]]
 * See:  with an executable file `hello` of two lines, "#!/bin/sh" and
 *       "echo you ask for $QUERY_STRING": `curl localhost:40215/hello?all`
 *       you ask for all
 *       `diff http_files.c http_programs.c`: how programs are run, and nothing else.
 */
#include "http.h"

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/wait.h>

enum { CHILDREN_MAX = 64 };
enum { PATIENCE = 10 };       /* seconds, unless told otherwise */
enum { PATIENCE_MAX = 3600 }; /* an hour */
enum { LINGER = 1 }; /* seconds for what a client that was answered still sends */
enum { PIECE_MAX = 1 << 20 }; /* bytes for one sendfile() */
/* The kernel wakes a sender when a third of the buffer is free. It would make the buffer
   megabytes large, and take a slow reader for one that does not read at all. */
enum { SEND_BUFFER = 64 << 10 };

static struct {
    int folder;
    int listener;
    int children;
    unsigned patience;
    sigset_t asleep; /* the signals that are blocked while pselect() sleeps */
} server;

extern char **environ;

static volatile sig_atomic_t stopped; /* the number of the signal that said so */

static void on_signal(int number)
{
    if (number == SIGCHLD) /* that one has only to wake pselect() */
        return;
    stopped = number;
    signal(SIGTERM, SIG_DFL); /* a second one, whichever, ends the program, as ever */
    signal(SIGINT, SIG_DFL);
}

/* From here on signals wait until connection_wait() sleeps. */
static void signals_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t caught;

    sigemptyset(&caught);
    sigaddset(&caught, SIGTERM);
    sigaddset(&caught, SIGINT);
    sigaddset(&caught, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &caught, &server.asleep) < 0)
        err(1, "sigprocmask");
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGTERM, &action, NULL) < 0 || sigaction(SIGINT, &action, NULL) < 0 ||
        sigaction(SIGCHLD, &action, NULL) < 0)
        err(1, "sigaction");
}

/* Sleeps until somebody connects or a signal comes. Returns whether somebody has. */
static bool connection_wait(void)
{
    fd_set readable;
    sigset_t awake;
    int n;

    FD_ZERO(&readable);
    if (server.children < CHILDREN_MAX)
        FD_SET((unsigned)server.listener, &readable); /* musl's macro wants it so */
    n = pselect(server.listener + 1, &readable, NULL, NULL, NULL, &server.asleep);
    /* If there is a connection already, pselect() need not let the signals in: a crowd of
       newcomers would hold up the stop. So they are let in here once more. */
    sigprocmask(SIG_SETMASK, &server.asleep, &awake);
    sigprocmask(SIG_SETMASK, &awake, NULL);
    return n > 0;
}

/* Looks after all children that have ended: until then they are zombies. */
static void children_reap(void)
{
    while (server.children > 0 && waitpid(-1, NULL, WNOHANG) > 0)
        server.children--;
}

#ifdef __linux__

#include <sys/sendfile.h>

/* Returns how many bytes the socket has taken, 0 at the file's end, -1 on failure. */
static ssize_t piece_send(const struct request *to, int file, size_t len)
{
    return sendfile(to->client, file, NULL, len);
}

#else

/* As above, on a system with another sendfile(), or with none. */
static ssize_t piece_send(const struct request *to, int file, size_t len)
{
    char bytes[65536];
    ssize_t n = read(file, bytes, len < sizeof bytes ? len : sizeof bytes);

    return n > 0 && bytes_send(to, bytes, (size_t)n) < 0 ? -1 : n;
}

#endif

/* Sends len bytes of the file. Returns 0, or -1: the client has not got all of them. */
static int file_answer(const struct request *to, int file, off_t len)
{
    if (head_send(to, 200, len) < 0)
        return -1;
    while (len > 0 && !to->head && client_wait(to, POLLOUT) == 0) {
        ssize_t n = piece_send(to, file, len < PIECE_MAX ? (size_t)len : PIECE_MAX);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            break; /* 0: the file has become shorter */
        if (n > 0)
            len -= n;
    }
    return len == 0 || to->head ? 0 : -1;
}

/* Returns whether the place is of a program. Links are none, as ever. */
static bool place_runs(const struct place *at)
{
    struct stat about;

    return fstatat(at->folder, at->name, &about, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(about.st_mode) && faccessat(at->folder, at->name, X_OK, 0) == 0;
}

/* What a program may know; all else in the server's environment is its own. Returns 0. */
static int environment_set(const struct request *request)
{
    static char *none[] = {NULL};
    const char *path = getenv("PATH");
    struct sockaddr_in peer = {.sin_family = AF_INET};
    socklen_t len = sizeof peer;
    char address[INET_ADDRSTRLEN] = "";

    getpeername(request->client, (struct sockaddr *)&peer, &len);
    inet_ntop(AF_INET, &peer.sin_addr, address, sizeof address);
    environ = none;
    return setenv("PATH", path != NULL ? path : "/usr/bin:/bin", 1) |
           setenv("GATEWAY_INTERFACE", "CGI/1.1", 1) |
           setenv("SERVER_PROTOCOL", "HTTP/1.1", 1) | setenv("REQUEST_METHOD", "GET", 1) |
           setenv("SCRIPT_NAME", request->path, 1) |
           setenv("QUERY_STRING", request->query, 1) | setenv("REMOTE_ADDR", address, 1);
}

/* Makes this process the program, with `output` as its standard output; or ends it. */
static void program_exec(const struct request *request, const struct place *at,
                         int output)
{
    char file[REQUEST_MAX + 3];
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

    signal(SIGPIPE, SIG_DFL); /* what has a handler becomes as before by itself */
    sigprocmask(SIG_SETMASK, &server.asleep, NULL);
    setpgid(0, 0);
    snprintf(file, sizeof file, "./%s", at->name); /* so PATH is not searched */
    if (nothing >= 0 && dup2(nothing, STDIN_FILENO) >= 0 &&
        dup2(output, STDOUT_FILENO) >= 0 && fchdir(at->folder) == 0 &&
        environment_set(request) == 0)
        execl(file, at->name, (char *)NULL);
    warn("%s", request->path);
    _exit(127); /* exit() is for the process that it was forked from */
}

/* Starts the program. Returns its number, or -1; *output brings what it prints. */
static pid_t program_start(const struct request *request, const struct place *at,
                           int *output)
{
    int ends[2];
    pid_t pid;

    if (pipe(ends) < 0)
        return -1;
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC); /* the copy that dup2() makes stays open */
    if ((pid = fork()) == 0)
        program_exec(request, at, ends[1]);
    if (pid > 0)
        setpgid(pid, pid); /* nobody knows which of the two processes is first */
    close(ends[1]);
    *output = ends[0];
    return pid;
}

/* Returns how many bytes came, 0 at the output's end, -1 if nothing came for too long. */
static ssize_t output_read(int output, char *bytes, size_t len)
{
    struct pollfd wait = {.fd = output, .events = POLLIN};

    if (poll(&wait, 1, (int)server.patience * 1000) <= 0)
        return -1;
    return read(output, bytes, len);
}

/* Runs the program and sends what it prints. Returns the status, or CLIENT_GONE. */
static int program_answer(const struct request *to, const struct place *at)
{
    char bytes[65536];
    ssize_t n, first;
    int output, ended = -1;
    pid_t pid;

    if (to->head) {
        head_send(to, 200, UNKNOWN);
        return 200;
    }
    if ((pid = program_start(to, at, &output)) < 0)
        return failure_send(to, 500);
    n = first = output_read(output, bytes, sizeof bytes);
    if (first > 0 && head_send(to, 200, UNKNOWN) == 0)
        while (n > 0 && bytes_send(to, bytes, (size_t)n) == 0)
            n = output_read(output, bytes, sizeof bytes);
    close(output);
    kill(-pid, SIGKILL); /* all of the group; whoever is ending already just ends */
    waitpid(pid, &ended, 0);
    if (first < 0 || (first == 0 && ended != 0))
        return failure_send(to, 500);
    if (first == 0)
        return head_send(to, 200, 0) == 0 ? 200 : CLIENT_GONE;
    return n == 0 ? 200 : CLIENT_GONE;
}

/* Sends the file at the place. Returns the status, or CLIENT_GONE. */
static int place_answer(const struct request *to, const struct place *at)
{
    struct stat about;
    int status, file = file_open(at, &about, &status);

    if (file < 0)
        return failure_send(to, status);
    status = file_answer(to, file, about.st_size) == 0 ? 200 : CLIENT_GONE;
    close(file);
    return status;
}

/* Answers a request that is complete. Returns the status, or CLIENT_GONE. */
static int request_answer(struct request *request)
{
    struct place place = {-1, ""};
    int status = request_parse(request);

    if (status == 0)
        status = place_find(server.folder, request->path, &place);
    if (status != 0)
        return failure_send(request, status);
    status = place_runs(&place) ? program_answer(request, &place)
                                : place_answer(request, &place);
    close(place.folder);
    return status;
}

/* What the process of a client does. An alarm that is not taken back ends it. */
static void client_serve(int client)
{
    struct request request = {.client = client};
    int status, buffer = SEND_BUFFER;
    char line[LOG_LINE];

    request.patience_ms = (int)server.patience * 1000;
    if (fcntl(client, F_SETFL, O_NONBLOCK) < 0 ||
        setsockopt(client, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer) < 0)
        err(1, "fcntl or setsockopt");
    alarm(server.patience); /* for all of the request, however it trickles in */
    if ((status = request_read(&request)) == CLIENT_GONE)
        return;
    alarm(0);
    request_show(&request, line); /* before it is cut up */
    status = status == 0 ? request_answer(&request) : failure_send(&request, status);
    if (status == CLIENT_GONE) {
        printf("%s: not complete\n", line);
        return;
    }
    printf("%s: %d\n", line, status);
    /* To close with input unread would reset the connection, and the end of the answer
       could be lost. So: first no more output, then its input until it closes as well. */
    shutdown(client, SHUT_WR);
    alarm(LINGER);
    while (client_wait(&request, POLLIN) == 0 &&
           recv(client, request.bytes, REQUEST_MAX, 0) > 0)
        continue;
}

static void on_connection(void)
{
    int client = accept(server.listener, NULL, NULL);
    pid_t pid;

    if (client < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            warn("accept");
            sleep(1); /* no memory, no descriptor: at once it would fail again */
        }
        return;
    }
    if ((pid = fork()) < 0)
        warn("fork");
    if (pid == 0) {
        close(server.listener);
        fcntl(client, F_SETFD, FD_CLOEXEC);
        client_serve(client);
        _exit(0);
    }
    server.children += pid > 0;
    close(client);
}

static int listener_open(in_port_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof address;
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        err(1, "socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        err(1, "setsockopt");
    if (bind(fd, (struct sockaddr *)&address, len) < 0)
        err(1, "bind port %d", port);
    if (listen(fd, SOMAXCONN) < 0)
        err(1, "listen");
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) /* who connects may be gone before accept() */
        err(1, "fcntl");
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        err(1, "getsockname");
    printf("listening on port %d\n", ntohs(address.sin_port));
    return fd;
}

/* Returns the number that an argument is, or leaves. */
static int number_parse(const char *text, int least, int most)
{
    char *end;
    long number = strtol(text, &end, 10);

    if (end == text || *end != '\0' || number < least || number > most)
        errx(2, "%s is not a number from %d to %d", text, least, most);
    return (int)number;
}

int main(int argc, char **argv)
{
    int port = argc > 2 ? number_parse(argv[2], 0, 65535) : 0;

    if (argc < 2 || argc > 4)
        errx(2, "usage: http_programs folder [port [patience]]");
    server.patience =
        (unsigned)(argc > 3 ? number_parse(argv[3], 1, PATIENCE_MAX) : PATIENCE);
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if ((server.folder = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        err(1, "open %s", argv[1]);
    signals_catch(); /* before anybody can know that the server runs */
    server.listener = listener_open((in_port_t)port);
    while (!stopped) {
        if (connection_wait() && !stopped)
            on_connection();
        children_reap();
    }
    printf("stopping: %s\n", strsignal(stopped));
    close(server.listener);
    sigprocmask(SIG_SETMASK, &server.asleep, NULL);
    while (server.children > 0 && (waitpid(-1, NULL, 0) > 0 || errno == EINTR))
        continue;
    return 0;
}
