/*
 * http_files.c - a homework: a web server for the files of a folder, which stops safely
 *
 *   - A process for each connection: whoever sends half a request or does not read holds
 *     up nobody else. There are at most CHILDREN_MAX; then the next ones wait.
 *   - sendfile(2) takes the bytes from the file to the socket: they never come into this
 *     program. Each system has another sendfile(). This is Linux's; elsewhere the program
 *     reads and sends.
 *   - A client has `patience` seconds to send its request, and as long for each portion
 *     of the answer. The portions are its kernel's: after its buffer was full, it makes
 *     room for some 130 KB at once, or more if the buffer is large (notes/security.md).
 *     Whoever reads as much as that in that time is served to the end.
 *   - After SIGTERM or SIGINT nobody is let in any more, and when the transfers that run
 *     are complete the server ends. A second signal ends it at once; they still go on.
 *
 * The signals are blocked, except while pselect() sleeps: it lets them in and falls
 * asleep in one step. So none can come between a look at the flag and the sleep, which
 * would then miss it, and no other call is interrupted. The children inherit the mask: a
 * ^C, which a terminal sends to all of them, does not end a transfer.
 *
 * Run:  http_files folder [port [patience]]   0, or none: any free port; ^C stops it
 * See:  listening on port 40215               and, for `curl localhost:40215/notes.md`,
 *       GET /notes.md HTTP/1.1: 200           the file
 *       stopping: Interrupt                   the exit code is 0
 *       `diff http_files.c http_programs.c`: how programs are run, and nothing else.
 */
#include "http.h"

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
    status = place_answer(request, &place);
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
        errx(2, "usage: http_files folder [port [patience]]");
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
