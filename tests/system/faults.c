/*
 * faults.c - makes calls fail, to test programs that have to cope with it (Linux)
 *
 * Linked to a program with -Wl,--wrap=CALL for each __wrap_CALL below, it stands between
 * the program's own code and the C library. No other code is affected, least of all a
 * sanitizer's allocator. The environment says what fails:
 *
 *   FAULTS         rules CALL:FAULT:RATE, separated by spaces: from the first accept on,
 *                  RATE of a thousand such calls fail. FAULT is an error's name, or
 *                  "short": recv, send and write move a part of the bytes, epoll_wait
 *                  reports one event. accept with ECONNABORTED drops a connection; the
 *                  other errors change nothing. Where recv or send would have to wait
 *                  instead of saying EAGAIN, the program ends with a line on stderr.
 *                  A recv with MSG_PEEK has a name of its own: peek.
 *   FAULTS_SEED    the seed of the random numbers
 *   FAULTS_FAIL    N: the Nth of the calls fails, with the error given below
 *   FAULTS_SPARE   an IPv4 address whose connections are spared
 *   FAULTS_COUNTS  a file of two uint64_t: calls that could have failed, and faults
 *   FAULTS_UNNAMED "pipes": pipes cannot be opened by their names, as on macOS and the
 *                  BSDs; "all": terminals have no names, either
 *   FAULTS_LIMIT   N: the system says that descriptors are unlimited, and grants at most
 *                  N, as macOS does
 *
 * The log's write fails by rule only. Used by faults_test.py, which also builds it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SHORT = -1 }; /* a fault, like the errors' numbers */
enum { RULES_MAX = 32 };
enum { NO_FD = -1 };

static const struct {
    const char *name;
    int fault;
} fault_names[] = {
    {"short", SHORT},           {"EAGAIN", EAGAIN}, {"ECONNABORTED", ECONNABORTED},
    {"ECONNRESET", ECONNRESET}, {"EINTR", EINTR},   {"EINVAL", EINVAL},
    {"EMFILE", EMFILE},         {"ENFILE", ENFILE}, {"ENOBUFS", ENOBUFS},
    {"ENOMEM", ENOMEM},         {"ENOSPC", ENOSPC}, {"EPIPE", EPIPE},
    {"EDQUOT", EDQUOT},         {"EFBIG", EFBIG},
};

enum { NAMES = sizeof fault_names / sizeof fault_names[0] };

struct counts {
    uint64_t calls, faults;
};

static struct {
    struct {
        char call[16];
        int fault;
        unsigned rate; /* of a thousand */
    } rules[RULES_MAX];
    size_t rules_count;
    bool serving; /* accept has been called */
    uint64_t random;
    uint64_t fail;   /* the number of a call, or 0 */
    in_addr_t spare; /* INADDR_NONE: nobody's */
    int log;         /* standard output, opened again */
    struct counts *counts;
} faults = {.spare = INADDR_NONE, .log = NO_FD, .counts = &(struct counts){0, 0}};

static void wrong(const char *what)
{
    fprintf(stderr, "faults: %s\n", what);
    _exit(3);
}

static int fault_named(const char *name)
{
    for (size_t i = 0; i < NAMES; i++)
        if (strcmp(fault_names[i].name, name) == 0)
            return fault_names[i].fault;
    wrong(name);
    return 0;
}

static void rules_read(const char *text)
{
    char call[16], name[16];
    unsigned rate;
    int used;

    while (sscanf(text, " %15[^:]:%15[^:]:%u%n", call, name, &rate, &used) == 3) {
        if (faults.rules_count == RULES_MAX)
            wrong("too many rules");
        strcpy(faults.rules[faults.rules_count].call, call);
        faults.rules[faults.rules_count].fault = fault_named(name);
        faults.rules[faults.rules_count++].rate = rate;
        text += used;
    }
    if (text[strspn(text, " ")] != '\0')
        wrong(text);
}

/* The counts are in shared memory: they are right even if the program is killed. */
static void counts_open(const char *path)
{
    int fd;

    (void)unlink(path); /* an earlier server may still count in its own file */
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *faults.counts) < 0)
        wrong(path);
    faults.counts =
        mmap(NULL, sizeof *faults.counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (faults.counts == MAP_FAILED)
        wrong(path);
    close(fd);
}

__attribute__((constructor)) static void faults_open(void)
{
    const char *rules = getenv("FAULTS"), *seed = getenv("FAULTS_SEED"),
               *fail = getenv("FAULTS_FAIL"), *spare = getenv("FAULTS_SPARE"),
               *counts = getenv("FAULTS_COUNTS");

    if (rules != NULL)
        rules_read(rules);
    if (fail != NULL)
        faults.fail = strtoull(fail, NULL, 10);
    if (spare != NULL)
        faults.spare = inet_addr(spare);
    if (counts != NULL)
        counts_open(counts);
    faults.random = seed != NULL ? strtoull(seed, NULL, 10) : 1;
    /* The first number is far from that of seed + 1. */
    faults.random = faults.random * 0x9e3779b97f4a7c15 + 1;
}

/* Marsaglia's xorshift64: a number below the limit. */
static size_t random_below(size_t limit)
{
    faults.random ^= faults.random << 13;
    faults.random ^= faults.random >> 7;
    faults.random ^= faults.random << 17;
    return (faults.random >> 11) % limit;
}

static bool address_spared(const struct sockaddr_storage *address)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    return address->ss_family == AF_INET && faults.spare != INADDR_NONE &&
           in->sin_addr.s_addr == faults.spare;
}

static bool peer_spared(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    return fd != NO_FD && faults.spare != INADDR_NONE &&
           getpeername(fd, (struct sockaddr *)&address, &len) == 0 &&
           address_spared(&address);
}

static int fault_by_rule(const char *call)
{
    for (size_t i = 0; faults.serving && i < faults.rules_count; i++)
        if (strcmp(faults.rules[i].call, call) == 0 &&
            random_below(1000) < faults.rules[i].rate)
            return faults.rules[i].fault;
    return 0;
}

/* Decides about a call. Returns 0, SHORT or an error; an error is then also in errno. */
static int fault_of(const char *call, int fd, int usual)
{
    int saved = errno;
    bool spared = peer_spared(fd);
    int fault =
        usual != 0 && ++faults.counts->calls == faults.fail ? usual : fault_by_rule(call);
    errno = saved;
    if (fault == 0 || spared)
        return 0;
    faults.counts->faults++;
    if (fault != SHORT)
        errno = fault;
    return fault;
}

/* The call fails, unless the fault is of another kind, which is left to the caller. */
#define FAIL_OR(call, arguments, fd, usual)                                              \
    (fault_of(#call, fd, usual) > 0 ? -1 : __real_##call arguments)

/* ---- the calls, as their man pages have them ---- */

int __real_fcntl(int fd, int command, ...);

/* To fail with EAGAIN is a nonblocking socket's way; on any other one the call waits. */
static void expect_nonblocking(const char *call, int fd, int flags, int fault)
{
    if (fault != EAGAIN || flags & MSG_DONTWAIT || __real_fcntl(fd, F_GETFL) & O_NONBLOCK)
        return;
    fprintf(stderr,
            "%s() would wait here, and the program with it: descriptor %d is not "
            "O_NONBLOCK\n",
            call, fd);
    _exit(1);
}

ssize_t __real_recv(int fd, void *bytes, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *bytes, size_t len, int flags)
{
    int fault = fault_of(flags & MSG_PEEK ? "peek" : "recv", fd, ECONNRESET);
    expect_nonblocking("recv", fd, flags, fault);
    if (fault > 0)
        return -1;
    return __real_recv(fd, bytes, fault == SHORT ? 1 + random_below(len) : len, flags);
}

ssize_t __real_send(int fd, const void *bytes, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *bytes, size_t len, int flags)
{
    int fault = fault_of("send", fd, ECONNRESET);
    expect_nonblocking("send", fd, flags, fault);
    if (fault > 0)
        return -1;
    if (fault == SHORT && len > 0)
        len = 1 + random_below(len);
    return __real_send(fd, bytes, len, flags);
}

/* By the rules for send. A short one ends anywhere in the first piece, or after it. */
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    int fault = fault_of("send", fd, ECONNRESET);
    struct iovec first = message->msg_iov[0];
    struct msghdr some = {.msg_iov = &first, .msg_iovlen = 1};

    expect_nonblocking("send", fd, flags, fault);
    if (fault > 0)
        return -1;
    if (fault != SHORT)
        return __real_sendmsg(fd, message, flags);
    first.iov_len = 1 + random_below(first.iov_len);
    return __real_sendmsg(fd, &some, flags);
}

ssize_t __real_write(int fd, const void *bytes, size_t len);
ssize_t __wrap_write(int fd, const void *bytes, size_t len)
{
    bool log = fd == STDOUT_FILENO || fd == faults.log;
    int fault = log ? fault_of("write", NO_FD, 0) : 0;
    if (fault > 0)
        return -1;
    return __real_write(fd, bytes, fault == SHORT ? 1 + random_below(len) : len);
}

ssize_t __real_read(int fd, void *bytes, size_t len);
ssize_t __wrap_read(int fd, void *bytes, size_t len)
{
    return FAIL_OR(read, (fd, bytes, len), NO_FD, EINTR);
}

int __real_accept(int fd, struct sockaddr *address, socklen_t *len);
int __wrap_accept(int fd, struct sockaddr *address, socklen_t *len)
{
    int fault = fault_of("accept", NO_FD, EMFILE);
    int newcomer;

    faults.serving = true;
    if (fault > 0 && fault != ECONNABORTED)
        return -1;
    newcomer = __real_accept(fd, address, len);
    if (fault != ECONNABORTED || newcomer < 0 || peer_spared(newcomer))
        return newcomer;
    close(newcomer);
    errno = ECONNABORTED;
    return -1;
}

int __real_epoll_wait(int loop, struct epoll_event *events, int max, int timeout);
int __wrap_epoll_wait(int loop, struct epoll_event *events, int max, int timeout)
{
    int fault = fault_of("epoll_wait", NO_FD, EINTR);
    if (fault > 0)
        return -1;
    return __real_epoll_wait(loop, events, fault == SHORT ? 1 : max, timeout);
}

int __real_epoll_ctl(int loop, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int loop, int op, int fd, struct epoll_event *event)
{
    return FAIL_OR(epoll_ctl, (loop, op, fd, event), fd, ENOMEM);
}

int __wrap_fcntl(int fd, int command, ...)
{
    va_list arguments;
    int argument;

    va_start(arguments, command);
    argument = va_arg(arguments, int);
    va_end(arguments);
    return FAIL_OR(fcntl, (fd, command, argument), fd, EINVAL);
}

int __real_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how)
{
    return FAIL_OR(shutdown, (fd, how), fd, ENOTCONN);
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return fault_of("malloc", NO_FD, ENOMEM) > 0 ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    return fault_of("calloc", NO_FD, ENOMEM) > 0 ? NULL : __real_calloc(count, size);
}

/* ---- those of a server's start ---- */

int __real_epoll_create1(int flags);
int __wrap_epoll_create1(int flags)
{
    return FAIL_OR(epoll_create1, (flags), NO_FD, EMFILE);
}

static bool unnamed(const char *what)
{
    const char *text = getenv("FAULTS_UNNAMED");
    return text != NULL && (strcmp(text, what) == 0 || strcmp(text, "all") == 0);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    bool log = strcmp(path, "/proc/self/fd/1") == 0;
    int fd;

    if (log && unnamed("pipes")) {
        errno = ENOENT;
        return -1;
    }
    fd = __real_open(path, flags);
    if (log)
        faults.log = fd;
    return fd;
}

char *__real_ttyname(int fd);
char *__wrap_ttyname(int fd)
{
    return unnamed("terminals") ? NULL : __real_ttyname(fd);
}

int __real_pipe(int fds[2]);
int __wrap_pipe(int fds[2])
{
    return FAIL_OR(pipe, (fds), NO_FD, EMFILE);
}

int __real_socket(int domain, int type, int protocol);
int __wrap_socket(int domain, int type, int protocol)
{
    return FAIL_OR(socket, (domain, type, protocol), NO_FD, EMFILE);
}

int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    return FAIL_OR(setsockopt, (fd, level, name, value, len), NO_FD, ENOPROTOOPT);
}

int __real_bind(int fd, const struct sockaddr *address, socklen_t len);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t len)
{
    return FAIL_OR(bind, (fd, address, len), NO_FD, EADDRINUSE);
}

int __real_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog)
{
    return FAIL_OR(listen, (fd, backlog), NO_FD, EADDRINUSE);
}

int __real_getsockname(int fd, struct sockaddr *address, socklen_t *len);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
    return FAIL_OR(getsockname, (fd, address, len), NO_FD, ENOBUFS);
}

int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **found);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **found)
{
    return fault_of("getaddrinfo", NO_FD, ENOMEM) > 0
               ? EAI_MEMORY
               : __real_getaddrinfo(host, port, hints, found);
}

int __real_getrlimit(__rlimit_resource_t resource, struct rlimit *limit);
int __wrap_getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
    int result = FAIL_OR(getrlimit, (resource, limit), NO_FD, EINVAL);

    if (getenv("FAULTS_LIMIT") != NULL)
        limit->rlim_max = RLIM_INFINITY;
    return result;
}

int __real_setrlimit(__rlimit_resource_t resource, const struct rlimit *limit);
int __wrap_setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    const char *granted = getenv("FAULTS_LIMIT");

    if (granted == NULL)
        return FAIL_OR(setrlimit, (resource, limit), NO_FD, EPERM);
    if (limit->rlim_cur <= strtoull(granted, NULL, 10))
        return 0;
    errno = EINVAL;
    return -1;
}

int __real_sigaction(int number, const struct sigaction *action, struct sigaction *old);
int __wrap_sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    return FAIL_OR(sigaction, (number, action, old), NO_FD, EINVAL);
}
