/*
 * log - see log.h. Systems: Linux, macOS and the BSDs.
 */
#include "log.h"
#include "utf8.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LOG_SIZE = 256 * 1024 }; /* bytes, for a reader that falls behind for a moment */
enum { EVENT_MAX = 256 };       /* bytes of a line of the server's own words */

static struct {
    char bytes[LOG_SIZE];
    size_t start, end;     /* what waits to be written */
    unsigned long dropped; /* lines, since there was no room */
} logged;

/*
 * Does standard output take PIPE_BUF bytes without blocking? Setting O_NONBLOCK instead
 * would change it for everybody who shares it. What poll(2) cannot watch does not block
 * for long.
 */
static bool stdout_has_room(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&out, 1, 0) != 0;
}

static void log_write(void)
{
    while (logged.start < logged.end && stdout_has_room()) {
        size_t len = logged.end - logged.start;
        ssize_t n = write(STDOUT_FILENO, logged.bytes + logged.start,
                          len < PIPE_BUF ? len : PIPE_BUF);
        if (n >= 0)
            logged.start += (size_t)n;
        else if (errno == EAGAIN || errno == EINTR)
            return;
        else
            logged.start = logged.end; /* nobody will ever read it */
    }
}

/*
 * Returns where to write a line of at most len bytes, or NULL if it has to be dropped.
 * After a first line all are, until the buffer is empty: so there is one gap, and
 * log_flush() tells.
 */
static char *log_begin(size_t len)
{
    if (LOG_SIZE - logged.end < len) {
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
    line[len] = '\n';
    logged.end += (size_t)len + 1;
}

static char *text_append(char *to, const char *bytes, size_t len)
{
    memcpy(to, bytes, len);
    return to + len;
}

void log_message(const char *sender, const char *text, size_t len)
{
    static const char head[] = "message from ";
    size_t sender_len = strlen(sender);
    char *line = log_begin(sizeof head + sender_len + UTF8_VISIBLE_MAX * len + 3);
    char *to = line;

    if (line == NULL)
        return;
    to = text_append(to, head, sizeof head - 1);
    to = text_append(to, sender, sender_len);
    to = text_append(to, ": ", 2);
    to += utf8_visible(to, text, len);
    *to++ = '\n';
    logged.end += (size_t)(to - line);
}

bool log_flush(void)
{
    log_write();
    if (logged.start < logged.end)
        return true;
    logged.start = logged.end = 0;
    if (logged.dropped > 0) {
        unsigned long dropped = logged.dropped;
        logged.dropped = 0;
        log_event("dropped %lu lines of the log", dropped);
        log_write();
    }
    return logged.start < logged.end;
}
