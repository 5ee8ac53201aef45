/*
 * log_test.c - final/log.c: a line that just fits the buffer, and one that just does not
 *
 * Standard output is a pipe, and full, so that all lines stay in the buffer. It is filled
 * up to each place near its end; then comes a message whose every byte takes four in the
 * log. What is read in the end has to be these lines, or these and word of a dropped one.
 */
#include "../../final/log.h"
#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { LOG_SIZE = 256 * 1024 }; /* as in log.c */
enum { TEXT_LEN = 1024, REACH = 60 };

static const char sender[] = "127.0.0.1:50000";
static const size_t around = sizeof "message from 127.0.0.1:50000: \n" - 1;

static int ours, theirs; /* the pipe's ends; the latter is standard output as well */
static char want[LOG_SIZE + 100], got[2 * LOG_SIZE];
static size_t want_len, got_len;

static void pipe_open(void)
{
    int fds[2];

    CHECK(pipe(fds) == 0);
    ours = fds[0];
    theirs = fds[1];
    CHECK(fcntl(ours, F_SETFL, O_NONBLOCK) == 0);
    CHECK(dup2(theirs, STDOUT_FILENO) == STDOUT_FILENO);
    log_open();
}

static void pipe_fill(void)
{
    char filling[256];

    memset(filling, '#', sizeof filling);
    CHECK(fcntl(theirs, F_SETFL, O_NONBLOCK) == 0);
    while (write(theirs, filling, sizeof filling) > 0)
        continue;
    while (write(theirs, filling, 1) > 0)
        continue;
    CHECK(fcntl(theirs, F_SETFL, 0) == 0);
}

/* Reads until nothing is left to be written, and leaves out what has filled the pipe. */
static void read_all(void)
{
    bool left;
    ssize_t n;

    got_len = 0;
    do {
        size_t filling = 0;
        left = log_flush() >= 0;
        n = read(ours, got + got_len, sizeof got - got_len);
        while (n > 0 && filling < (size_t)n && got[got_len + filling] == '#')
            filling++;
        if (n > 0)
            memmove(got + got_len, got + got_len + filling, (size_t)n - filling);
        got_len += n > 0 ? (size_t)n - filling : 0;
    } while (n > 0 || left);
}

/* Logs a line that takes that many bytes. */
static void line_add(size_t len)
{
    char text[TEXT_LEN];

    memset(text, 'x', sizeof text);
    log_message(sender, text, len - around);
    want_len +=
        (size_t)snprintf(want + want_len, sizeof want - want_len,
                         "message from %s: %.*s\n", sender, (int)(len - around), text);
}

/* Fills the buffer but for that many bytes, then logs the message. */
static void check_room(size_t room)
{
    static char text[TEXT_LEN];
    char *end = want;

    pipe_fill();
    want_len = 0;
    while (LOG_SIZE - want_len > room + 1000)
        line_add(600);
    line_add(LOG_SIZE - want_len - room);
    log_message(sender, text, TEXT_LEN);
    read_all();
    CHECK(got_len > want_len && memcmp(got, want, want_len) == 0);
    end += snprintf(want, sizeof want, "message from %s: ", sender);
    for (int i = 0; i < TEXT_LEN; i++, end += 4)
        memcpy(end, "\\x00", 4);
    *end++ = '\n';
    if (got_len - want_len == (size_t)(end - want))
        CHECK(memcmp(got + want_len, want, got_len - want_len) == 0);
    else
        CHECK(memcmp(got + want_len, "dropped 1 line of the log\n", got_len - want_len) ==
              0);
}

int main(void)
{
    const size_t exact = around + 4 * (size_t)TEXT_LEN;
    int output = dup(STDOUT_FILENO);

    pipe_open();
    for (size_t room = exact - REACH; room <= exact + REACH; room++)
        check_room(room);
    CHECK(dup2(output, STDOUT_FILENO) == STDOUT_FILENO);
    return checks_end();
}
