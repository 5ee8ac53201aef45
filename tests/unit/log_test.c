/*
 * log_test.c - final/log.c: a line that just fits the buffer, and one that just does not
 *
 * Standard output is a pipe, and full, so that all lines stay in the buffer. It is filled
 * up to each place near its end; then comes a message whose every byte takes four in the
 * log, or a connection's end. What is read has to be all these lines, or in place of the
 * last one word that it was dropped.
 */
#include "../../final/log.h"
#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { LOG_SIZE = 256 * 1024 }; /* as in log.c */
enum { TEXT_LEN = 1024, REACH = 50, LINE_MAX_LEN = 1000 };

static const char sender[] = "127.0.0.1:50000";

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
    char text[LINE_MAX_LEN] = "";

    memset(text, 'x', len - strlen("filling: \n"));
    log_connection("filling", text, NULL);
    want_len +=
        (size_t)snprintf(want + want_len, sizeof want - want_len, "filling: %s\n", text);
}

/* Two kinds of last lines, and what they look like. */
static void message_log(void)
{
    static const char zeros[TEXT_LEN];

    log_message(sender, zeros, sizeof zeros);
}

static const char *message_line(void)
{
    static char line[sizeof "message from 127.0.0.1:50000: \n" + 4 * (size_t)TEXT_LEN];
    char *end = line + snprintf(line, sizeof line, "message from %s: ", sender);

    for (int i = 0; i < TEXT_LEN; i++)
        end = stpcpy(end, "\\x00");
    *end = '\n';
    return line;
}

static void end_log(void)
{
    log_connection("connection terminated", sender, "end of file");
}

static const char end_line[] = "connection terminated: 127.0.0.1:50000 (end of file)\n";

/* Fills the buffer but for that many bytes, then logs the last line. */
static void check_room(size_t room, void (*last_log)(void), const char *last_line)
{
    const char *rest = got;

    pipe_fill();
    want_len = 0;
    while (LOG_SIZE - want_len > room + LINE_MAX_LEN)
        line_add(600);
    line_add(LOG_SIZE - want_len - room);
    last_log();
    read_all();
    CHECK(got_len > want_len && memcmp(got, want, want_len) == 0);
    rest = got + want_len;
    if (got_len - want_len == strlen(last_line))
        CHECK(memcmp(rest, last_line, got_len - want_len) == 0);
    else
        CHECK(memcmp(rest, "dropped 1 line of the log\n", got_len - want_len) == 0);
}

static void check_rooms(void (*last_log)(void), const char *last_line)
{
    size_t exact = strlen(last_line);

    for (size_t room = exact - REACH; room <= exact + REACH; room++)
        check_room(room, last_log, last_line);
}

int main(void)
{
    int output = dup(STDOUT_FILENO);

    pipe_open();
    check_rooms(message_log, message_line());
    check_rooms(end_log, end_line);
    CHECK(dup2(output, STDOUT_FILENO) == STDOUT_FILENO);
    return checks_end();
}
