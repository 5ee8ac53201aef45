/*
 * log - see log.h. Systems: Linux, macOS and the BSDs.
 */
#include "log.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOG_SIZE = 256 * 1024 }; /* bytes, for a reader that falls behind for a moment */
enum { EVENT_MAX = 256 };       /* bytes of a line of the server's own words */
enum { RETRY_MAX_MS = 100 };    /* the longest pause before the next attempt to write */
enum { LINES_LOST_MAX = 64 };   /* bytes of the line that tells how many are missing */
enum { TERMINAL_MAX = 128 };    /* bytes at a time, if each costs two calls */

/* How to write without waiting, which depends on what standard output is. */
enum way {
    WAY_FILE,     /* a disk is quick; there is no other way */
    WAY_OPENED,   /* a pipe or terminal, opened again as O_NONBLOCK, for us alone */
    WAY_SOCKET,   /* MSG_DONTWAIT */
    WAY_PIPE,     /* that could not be opened again: poll(2), then PIPE_BUF bytes */
    WAY_TERMINAL, /* likewise; its POLLOUT stands for one byte */
};

static struct {
    char bytes[LOG_SIZE];
    size_t start, end;     /* what waits to be written */
    unsigned long dropped; /* lines, since there was no room */
    bool torn;             /* the last byte that was written ended no line */
    bool dead;             /* nobody will read: there is no use in trying again */
    int retry_ms;          /* the last pause before another attempt */
    enum way way;
    int fd;
} logged;

/*
 * Opens a pipe or terminal once more, so that O_NONBLOCK is set for nobody else: whoever
 * shares a descriptor shares its flags. Returns -1 if the system has no name for it, or
 * does not let us.
 */
static int stdout_open_again(bool terminal)
{
    const int flags = O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    int fd = open("/proc/self/fd/1", flags);
    const char *name = fd < 0 && terminal ? ttyname(STDOUT_FILENO) : NULL;

    return name != NULL ? open(name, flags) : fd;
}

void log_open(void)
{
    struct stat out;
    bool terminal = isatty(STDOUT_FILENO);
    int fd;

    logged.fd = STDOUT_FILENO;
    if (fstat(STDOUT_FILENO, &out) < 0)
        return;
    if (S_ISSOCK(out.st_mode)) {
        logged.way = WAY_SOCKET;
    } else if (terminal || S_ISFIFO(out.st_mode)) {
        fd = stdout_open_again(terminal);
        logged.way = fd >= 0 ? WAY_OPENED : terminal ? WAY_TERMINAL : WAY_PIPE;
        logged.fd = fd >= 0 ? fd : STDOUT_FILENO;
    }
}

static bool stdout_has_room(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&out, 1, 0) != 0;
}

/*
 * How many of the bytes to write at once to something that may be shared. PIPE_BUF bytes
 * are never mixed with somebody else's; if possible they are whole lines.
 */
static size_t log_piece(const char *bytes, size_t len)
{
    size_t cut = len < PIPE_BUF ? len : PIPE_BUF;

    while (cut > 0 && bytes[cut - 1] != '\n')
        cut--;
    return cut > 0 ? cut : len < PIPE_BUF ? len : PIPE_BUF;
}

/* Is there hope that the same bytes can be written later? A disk may have room again. */
static bool error_passes(int error)
{
    return error == EAGAIN || error == EINTR || error == ENOSPC || error == EDQUOT ||
           error == EFBIG || error == ENOBUFS || error == ENOMEM;
}

/* Writes some of the bytes without waiting; returns how many, or -1. */
static ssize_t log_put(const char *bytes, size_t len)
{
    const enum way way = logged.way;
    ssize_t n;

    if ((way == WAY_PIPE || way == WAY_TERMINAL) && !stdout_has_room()) {
        errno = EAGAIN;
        return -1;
    }
    if (way == WAY_TERMINAL)
        len = 1;
    else if (way == WAY_PIPE || way == WAY_OPENED)
        len = log_piece(bytes, len);
    n = way == WAY_SOCKET ? send(logged.fd, bytes, len, MSG_DONTWAIT)
                          : write(logged.fd, bytes, len);
    if (n > 0) {
        logged.torn = bytes[n - 1] != '\n';
        logged.retry_ms = 0;
    }
    logged.dead = n < 0 && !error_passes(errno);
    return n;
}

/* Nobody will ever read what waits. */
static void log_drop(void)
{
    for (; logged.start < logged.end; logged.start++)
        if (logged.bytes[logged.start] == '\n')
            logged.dropped++;
}

static void log_write(void)
{
    size_t end = logged.end;

    if (logged.way == WAY_TERMINAL && end - logged.start > TERMINAL_MAX)
        end = logged.start + TERMINAL_MAX;
    while (logged.start < end) {
        ssize_t n = log_put(logged.bytes + logged.start, logged.end - logged.start);
        if (n > 0)
            logged.start += (size_t)n;
        else if (logged.dead)
            log_drop();
        else
            return;
    }
    if (logged.start >= logged.end)
        logged.start = logged.end = 0;
}

/*
 * Returns where to write a line of at most len bytes, or NULL if it has to be dropped.
 * After a first line all are, until the buffer is empty: so there is one gap, and
 * log_flush() tells.
 */
static char *log_begin(size_t len)
{
    if (logged.dropped == 0 && LOG_SIZE - logged.end < len) {
        log_write();
        memmove(logged.bytes, logged.bytes + logged.start, logged.end - logged.start);
        logged.end -= logged.start;
        logged.start = 0;
    }
    if (LOG_SIZE - logged.end < len || logged.dropped > 0) {
        logged.dropped++;
        return NULL;
    }
    return logged.bytes + logged.end;
}

/* Ends the line that log_begin() has begun. */
static void log_end(char *end)
{
    *end = '\n';
    logged.end = (size_t)(end - logged.bytes) + 1;
}

void log_event(const char *format, ...)
{
    char *line = log_begin(EVENT_MAX);
    va_list arguments;
    int len;

    if (line == NULL)
        return;
    va_start(arguments, format);
    len = vsnprintf(line, EVENT_MAX, format, arguments);
    va_end(arguments);
    if (len < 0)
        return;
    if (len > EVENT_MAX - 1)
        len = EVENT_MAX - 1;
    log_end(line + len);
}

void log_connection(const char *event, const char *endpoint, const char *reason)
{
    size_t reason_len = reason == NULL ? 0 : strlen(reason);
    char *end = log_begin(strlen(event) + strlen(endpoint) + reason_len + sizeof ":  ()");

    if (end == NULL)
        return;
    end = stpcpy(end, event);
    end = stpcpy(end, ": ");
    end = stpcpy(end, endpoint);
    if (reason != NULL) {
        end = stpcpy(end, " (");
        end = stpcpy(end, reason);
        end = stpcpy(end, ")");
    }
    log_end(end);
}

void log_message(const char *sender, const char *text, size_t len)
{
    size_t visible_max = UTF8_VISIBLE_MAX * len;
    char *end = log_begin(strlen(sender) + visible_max + sizeof "message from : ");

    if (end == NULL)
        return;
    end = stpcpy(end, "message from ");
    end = stpcpy(end, sender);
    end = stpcpy(end, ": ");
    log_end(end + utf8_visible(end, text, len));
}

/* Says how many lines are missing. The buffer is empty; what is not written waits. */
static void log_tell_dropped(void)
{
    char line[LINES_LOST_MAX];
    int len =
        snprintf(line, sizeof line, "%sdropped %lu line%s of the log\n",
                 logged.torn ? "\n" : "", logged.dropped, logged.dropped == 1 ? "" : "s");
    ssize_t n = log_put(line, (size_t)len);

    if (n <= 0)
        return;
    logged.dropped = 0;
    logged.end = (size_t)(len - n);
    memcpy(logged.bytes, line + n, logged.end);
    log_write();
}

int log_flush(void)
{
    log_write();
    if (logged.start == logged.end && logged.dropped > 0)
        log_tell_dropped();
    if (logged.start == logged.end && (logged.dropped == 0 || logged.dead))
        return -1;
    logged.retry_ms = logged.retry_ms == 0 ? 1 : 2 * logged.retry_ms;
    if (logged.retry_ms > RETRY_MAX_MS)
        logged.retry_ms = RETRY_MAX_MS;
    return logged.retry_ms;
}
