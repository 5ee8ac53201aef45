/*
 * chatcl - a chat client: what is typed goes to the server, what others say is shown
 *
 * On a terminal the typed line stays below what comes in, can be edited (edit.h) and
 * vanishes when sent: it is shown when the server sends it back. What lasts longer than
 * a moment is said in a line: connecting, waiting. In a pipe, or on a terminal that can
 * only print, bytes go to the server as they are; at the end of the input the sending
 * side is closed, and the rest of what the server says is still shown. Its bytes pass
 * unchanged where the output is no terminal: a terminal would obey some of them.
 *
 * Nothing is read from the server or from a pipe unless there is room for it: a server
 * that does not read makes the input wait, a slow output makes the server wait. Memory
 * does not grow. Keys are always read, for one of them may be ^C.
 *
 * Exit status: 0 if the server has closed the connection after the end of the input (on a
 * terminal, ^D in an empty line), in a pipe also if it did before and nothing was left to
 * send; 1 if it could not be reached, was full, or is gone; 2 for wrong usage; ^C and
 * other signals end the program as signals do, which a shell calls 130 for ^C.
 *
 * With -r the server is dialled again, for ever, after 1, 2, 4 ... 30 s. What is typed
 * meanwhile is sent then, but not before the server has greeted: a full one would throw
 * it away. What the old connection had taken and not delivered is lost; nobody can tell
 * what that was. A line that was sent or received by half is dropped: its other half will
 * never come.
 *
 * Usage: chatcl -h
 * Systems: Linux, macOS and the BSDs (poll)
 */
#include "buffer.h"
#include "dial.h"
#include "letter.h"
#include "lines.h"
#include "paste.h"
#include "screen.h"
#include "tty.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Two pieces of a line that is cut, with newlines, hold more than MESSAGE_MAX bytes. */
enum { LINE_ROOM = EDIT_MAX + 2 * (EDIT_MAX / MESSAGE_MAX + 1) };
_Static_assert(BUFFER_SIZE > 2 * LINE_ROOM, "a line can be added while one is sent");

enum {
    RETRY_MAX = 30,     /* seconds between two attempts to connect */
    GREETING_MS = 2000, /* with -r, a server that is silent so long does not greet */
    MOMENT_MS = 1000    /* what lasts longer is worth a line */
};

static const char USAGE[] =
    "usage: chatcl [-hrt] [host [port]]\n"
    "  -r  when the server goes away or cannot be reached, try again and again\n"
    "  -t  on a terminal, show the time before each line of the server\n"
    "  -h  show this text\n"
    "The host is localhost and the port 3100 unless given.\n"
    "On a terminal, Up and Down recall earlier lines, ^D says goodbye, ^C leaves at "
    "once.\n";

/* What the server says instead of a greeting when there are too many clients. */
static const char FULL[] = "Server full\n";
enum { FULL_LEN = sizeof FULL - 1 };

/* What a user may be waiting for, and in what words to say so. */
enum status { QUIET, CONNECTING, KEPT, SILENT, UNREAD, UNANSWERED, GOODBYE };

static const char *const status_words[] = {
    [CONNECTING] = "connecting to %s",
    [KEPT] = "not connected to %s yet; what you have typed waits (^C leaves)",
    [SILENT] = "connected to %s, which has said nothing yet",
    [UNREAD] = "%s is not reading; what you have typed waits (^C leaves)",
    [UNANSWERED] = "%s has not answered yet",
    [GOODBYE] = "waiting for %s to close the connection (^C leaves)",
};

static struct {
    const char *host, *port;
    char name[300]; /* host:port */
    bool retry;     /* -r */
    bool times;     /* -t */

    bool on_screen;       /* on a terminal, with a line being edited */
    bool shown;           /* on a terminal, with such a line or without: */
    struct screen screen; /* here */
    struct buffer typed;  /* what is not in the line yet, */
    struct paste kept;    /* up to here; */
    struct paste seen;    /* and more may have come, but found no room */
    bool hung_up;         /* no more can be typed: the terminal is gone */
    bool status_said;     /* there is a line about it */
    enum status status;   /* what the user is waiting for, */
    int64_t status_at;    /* and when to say so */

    struct buffer out; /* to the server */
    struct buffer in;  /* from the server, not shown yet */
    int server;        /* what to wait for; -1: there is none now */
    enum { NOWHERE, LOOKING_UP, DIALLING, CONNECTED } stage;
    struct dial dial;
    int64_t retry_at;     /* the next attempt to connect, */
    int retry_s;          /* that many seconds after the last one */
    size_t heard;         /* how many bytes have come from this connection, */
    char first[FULL_LEN]; /* and the first of them */
    bool greeted;         /* it may be spoken to; without -r at once, */
    int64_t greeted_at;   /* and otherwise then at the latest */
    bool spoken;          /* something was sent */
    bool unanswered;      /* a line was sent, and nothing has come since */
    bool half_sent;       /* the last byte sent was not the end of a line */
    bool half_shown;      /* the same for the last byte written, unless shown */
    bool skipping;        /* up to the next newline, out is not to be sent */
    bool input_ended;     /* nothing more will be typed, */
    bool shut;            /* and the server knows */
    bool deaf;            /* the server takes no more; reading will tell why */

    bool leaving;       /* as soon as what came in has been written, */
    int exit_status;    /* with this, */
    char farewell[512]; /* and these last words on standard error */
} chat; /* all zero until main: initialized here, it would be in the program's file */

static bool would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

static int64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The last words wait until the terminal is as it was before. */
static void leave(int exit_status, const char *call, const char *what, const char *reason)
{
    chat.leaving = true;
    chat.exit_status = exit_status;
    snprintf(chat.farewell, sizeof chat.farewell, "%s %s: %s", call, what, reason);
}

/* Begins a line of our own, on the screen or on standard error. */
static FILE *notice(void)
{
    FILE *to = chat.on_screen ? screen_print() : stderr;

    fputs("chatcl: ", to);
    return to;
}

static void screen_write(void)
{
    if (screen_flush(&chat.screen) < 0 && !chat.leaving)
        leave(1, "write", "terminal", strerror(errno));
}

/* ---- the server ---- */

static bool server_full(void)
{
    return chat.heard == FULL_LEN && memcmp(chat.first, FULL, FULL_LEN) == 0;
}

/* The half line that out begins with, if the last connection has had the other half. */
static void half_line_skip(void)
{
    const char *bytes = chat.out.bytes + chat.out.start;

    if (!chat.skipping)
        return;
    const char *newline = memchr(bytes, '\n', chat.out.len);
    buffer_drop(&chat.out,
                newline == NULL ? chat.out.len : (size_t)(newline - bytes) + 1);
    chat.skipping = newline == NULL;
}

/* How many bytes in begins with are whole lines. */
static size_t whole_lines_len(void)
{
    const char *bytes = chat.in.bytes + chat.in.start;
    size_t len = chat.in.len;

    while (len > 0 && bytes[len - 1] != '\n')
        len--;
    return len;
}

/* Nothing of the connection that is gone is glued to what the next one brings. */
static void half_lines_drop(void)
{
    size_t whole = whole_lines_len();
    bool cut = chat.half_sent && (!chat.input_ended || chat.out.len > 0);

    if (cut)
        fputs("half a line was sent; the rest is dropped\n", notice());
    chat.skipping |= cut;
    chat.half_sent = false;
    half_line_skip();
    if (whole == chat.in.len && (whole > 0 || !chat.half_shown))
        return;
    fputs("half a line has come; it is dropped\n", notice());
    chat.in.len = whole;
    if (chat.half_shown && whole == 0)
        buffer_add(&chat.in, "\n", 1);
}

/* The first failure after the server has been of use begins the pauses anew. */
static void retry_later(void)
{
    if (chat.heard > 0 && !server_full())
        chat.retry_s = 0;
    chat.retry_s = chat.retry_s == 0 ? 1 : 2 * chat.retry_s;
    if (chat.retry_s > RETRY_MAX)
        chat.retry_s = RETRY_MAX;
    chat.retry_at = clock_ms() + 1000 * chat.retry_s;
}

/* Is there nothing left that another connection would be good for? */
static bool all_said(void)
{
    return chat.on_screen && chat.input_ended && chat.out.len == 0;
}

/*
 * There is no connection, or no longer. What the server has read of what was sent, only
 * the server knew.
 */
static void server_lost(const char *call, const char *reason)
{
    dial_close(&chat.dial);
    chat.server = -1;
    chat.stage = NOWHERE;
    if (!chat.retry || all_said()) {
        leave(1, call, chat.name, reason);
        return;
    }
    retry_later();
    half_lines_drop();
    fprintf(notice(), "%s %s: %s%s; trying again in %d s\n", call, chat.name, reason,
            chat.spoken ? "; what was sent last may be lost" : "", chat.retry_s);
    chat.shut = chat.deaf = chat.spoken = chat.unanswered = false;
    chat.heard = 0;
}

static void server_dial(void)
{
    chat.server = dial_open(&chat.dial, chat.host, chat.port);
    chat.stage = LOOKING_UP;
    if (chat.server < 0)
        server_lost("fork", strerror(errno));
}

static void server_dial_next(void)
{
    chat.server = dial_next(&chat.dial);
    chat.stage = DIALLING;
    if (chat.server < 0)
        server_lost("connect", strerror(errno));
}

static void on_found(void)
{
    const char *error = dial_found(&chat.dial);

    if (error != NULL)
        server_lost("getaddrinfo", error);
    else
        server_dial_next();
}

/* After a delay or a failure, that it has worked is worth a line, too. */
static void on_dialled(void)
{
    bool delayed = chat.retry_s > 0 || (chat.status == CONNECTING && chat.status_said);

    if (!dial_connected(&chat.dial, chat.server)) {
        server_dial_next();
        return;
    }
    chat.stage = CONNECTED;
    chat.greeted = !chat.retry;
    chat.greeted_at = clock_ms() + GREETING_MS;
    if (!chat.on_screen || !delayed)
        return;
    fprintf(notice(), "connected to %s\n", chat.name);
    chat.status = SILENT;
    chat.status_said = true;
}

/* In a pipe the server may hang up first, as long as it has taken all there was. */
static void on_server_end(int error)
{
    bool orderly = chat.shut || (!chat.on_screen && !chat.retry && chat.out.len == 0);

    if (chat.shown)
        screen_show(&chat.screen, &chat.in,
                    !chat.retry || (orderly && error == 0) || all_said());
    close(chat.server);
    chat.server = -1;
    if (server_full())
        server_lost("connect", "Server full");
    else if (error != 0)
        server_lost("read", strerror(error));
    else if (orderly)
        chat.leaving = true;
    else
        server_lost("read", "The server has closed the connection");
}

/* Something moves: the moment that is too short for words begins anew. */
static void on_progress(void)
{
    chat.status_at = clock_ms() + MOMENT_MS;
}

static void on_heard(size_t len)
{
    const char *bytes = chat.in.bytes + chat.in.start + chat.in.len - len;

    for (size_t i = 0; i < len && chat.heard + i < FULL_LEN; i++)
        chat.first[chat.heard + i] = bytes[i];
    chat.heard += len;
    chat.greeted |= memchr(bytes, '\n', len) != NULL && !server_full();
    chat.unanswered = false;
    on_progress();
    if (chat.shown)
        screen_show(&chat.screen, &chat.in, false);
}

static void on_server_readable(void)
{
    ssize_t got = buffer_read(&chat.in, chat.server);

    if (got > 0)
        on_heard((size_t)got);
    else if (got == 0)
        on_server_end(0);
    else if (!would_block(errno))
        on_server_end(errno);
}

/* The last words of a server that is gone are still to be read, and then the reason. */
static void on_server_writable(void)
{
    ssize_t written = buffer_write(&chat.out, chat.server, BUFFER_SIZE);

    if (written > 0) {
        chat.spoken = true;
        chat.half_sent = chat.out.bytes[chat.out.start - 1] != '\n';
        on_progress();
    } else if (written < 0 && !would_block(errno)) {
        chat.deaf = true;
    }
}

/* Does it become true by itself that the server has greeted? */
static bool greeting_awaited(void)
{
    return chat.stage == CONNECTED && !chat.greeted && !chat.leaving && !server_full();
}

static short server_interest(void)
{
    bool readable = buffer_room(&chat.in) > 0 &&
                    (!chat.shown || screen_ready(&chat.screen, clock_ms()));
    bool writable = chat.out.len > 0 && chat.greeted && !chat.deaf;

    if (chat.leaving || chat.stage == NOWHERE)
        return 0;
    if (chat.stage != CONNECTED)
        return chat.stage == LOOKING_UP ? POLLIN : POLLOUT;
    return (short)((readable ? POLLIN : 0) | (writable ? POLLOUT : 0));
}

/* Errors and hang-ups: reading tells what happened. */
static void on_server(short ready)
{
    if (chat.stage == LOOKING_UP) {
        on_found();
        return;
    }
    if (chat.stage == DIALLING) {
        on_dialled();
        return;
    }
    if (ready & POLLOUT)
        on_server_writable();
    if ((ready & ~POLLOUT) && buffer_room(&chat.in) > 0)
        on_server_readable();
}

/* ---- the user ---- */

/*
 * A pasted line end at the end of the line is the one that Enter would add. The server
 * would cut a longer message than MESSAGE_MAX anywhere; here it is done between letters.
 */
static void line_send(void)
{
    const char *text = chat.screen.line.text;
    size_t len = chat.screen.line.len;

    if (len == 0)
        return;
    for (size_t at = 0; at < len;) {
        const char *newline = memchr(text + at, '\n', len - at);
        size_t line_len = newline == NULL ? len - at : (size_t)(newline - text) - at;
        size_t piece_len = letter_fit(text + at, line_len, MESSAGE_MAX);

        buffer_add(&chat.out, text + at, piece_len);
        buffer_add(&chat.out, "\n", 1);
        at += piece_len + (newline != NULL && piece_len == line_len);
    }
    chat.unanswered = true;
    edit_next(&chat.screen.line);
}

static void input_end(void)
{
    chat.input_ended = chat.screen.line_left = true;
    if (chat.stage != CONNECTED && !chat.leaving && all_said())
        leave(1, "connect", chat.name, "The input ended without a connection");
}

/* Is there room for the longest line? */
static bool input_room(void)
{
    return !chat.input_ended && !chat.leaving && buffer_room(&chat.out) > LINE_ROOM;
}

static void typed_edit(void)
{
    while (chat.typed.len > 0 && input_room()) {
        const char *bytes = chat.typed.bytes + chat.typed.start;
        size_t used;
        enum edit_event event =
            edit_feed(&chat.screen.line, bytes, chat.typed.len, &used);

        buffer_drop(&chat.typed, used);
        if (event == EDIT_LINE)
            line_send();
        else if (event == EDIT_END)
            input_end();
        else if (event == EDIT_REDRAW)
            screen_clear(&chat.screen);
    }
}

static void on_input_end(ssize_t got)
{
    if (got < 0 && would_block(errno))
        return;
    if (got < 0 && !chat.leaving)
        leave(1, "read", "standard input", strerror(errno));
    chat.hung_up = true;
    input_end();
}

/*
 * What finds no room is lost, but not the marks of a paste in it: what follows has to be
 * told from what is typed.
 */
static void typed_add(const char *bytes, size_t len)
{
    char marks[2 * PASTE_MARK_LEN];
    size_t marks_len = paste_bridge(chat.kept, chat.seen, marks);
    bool fits = marks_len + len <= buffer_room(&chat.typed);

    for (size_t i = 0; i < len; i++)
        paste_follow(&chat.seen, bytes[i]);
    if (fits) {
        buffer_add(&chat.typed, marks, marks_len);
        buffer_add(&chat.typed, bytes, len);
        chat.kept = chat.seen;
        return;
    }
    chat.screen.line.bell = true;
    chat.typed.len -= chat.kept.matched; /* half a mark, and the rest is lost */
    chat.kept.matched = 0;
}

/* Keys are read even if they have to wait: what looks for ^C must see them. */
static void on_keys(void)
{
    char bytes[4096];
    size_t len = 0;
    ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);

    if (got <= 0)
        on_input_end(got);
    for (ssize_t i = 0; i < got; i++) {
        int number = tty_key_signal(bytes[i]);

        if (number != 0)
            screen_pass_signal(&chat.screen, number);
        else
            bytes[len++] = bytes[i];
    }
    if (!chat.input_ended && !chat.leaving)
        typed_add(bytes, len);
}

static void on_input(void)
{
    if (chat.on_screen) {
        on_keys();
        return;
    }
    ssize_t got = buffer_read(&chat.out, STDIN_FILENO);
    if (got > 0)
        half_line_skip();
    else
        on_input_end(got);
}

/* With -r, half a line waits for the rest, unless there is no room for it, or none. */
static size_t output_len(void)
{
    if (!chat.retry || chat.leaving || buffer_room(&chat.in) == 0)
        return chat.in.len;
    return whole_lines_len();
}

static bool output_waits(void)
{
    return chat.shown ? chat.screen.unwritten : output_len() > 0;
}

/* Whether standard output takes something now. */
static bool output_ready(void)
{
    struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};

    return poll(&output, 1, 0) > 0;
}

/*
 * Returns whether something was written. Of a blocking pipe, poll(2) promises no more
 * than that PIPE_BUF bytes do not block.
 */
static bool output_write(void)
{
    size_t len = output_len();
    ssize_t written =
        buffer_write(&chat.in, STDOUT_FILENO, len < PIPE_BUF ? len : PIPE_BUF);

    if (written > 0)
        chat.half_shown = chat.in.bytes[chat.in.start - 1] != '\n';
    if (written >= 0 || would_block(errno))
        return written > 0;
    leave(1, "write", "standard output", strerror(errno));
    chat.in.len = 0;
    return false;
}

/* All that there is room for: otherwise a long input would overtake its own echo. */
static void on_output(void)
{
    if (chat.shown)
        screen_write();
    else
        while (output_len() > 0 && output_ready() && output_write())
            ;
}

/* ---- what the user is waiting for ---- */

static enum status status_now(void)
{
    if (chat.leaving)
        return QUIET;
    if (chat.stage != CONNECTED && chat.out.len > 0)
        return KEPT;
    if (chat.stage == NOWHERE) /* there is a line about that already */
        return QUIET;
    if (chat.stage != CONNECTED)
        return CONNECTING;
    if (!chat.greeted)
        return chat.heard == 0 ? SILENT : QUIET;
    if (chat.out.len > 0)
        return UNREAD;
    if (chat.shut)
        return GOODBYE;
    return chat.unanswered ? UNANSWERED : chat.heard == 0 ? SILENT : QUIET;
}

static void status_update(void)
{
    enum status now = status_now();

    if (now != chat.status) {
        chat.status = now;
        chat.status_said = now == QUIET;
        chat.status_at = clock_ms() + MOMENT_MS;
    }
    if (chat.status_said || clock_ms() < chat.status_at)
        return;
    chat.status_said = true;
    FILE *to = notice();
    fprintf(to, status_words[now], chat.name);
    fputc('\n', to);
}

/* ---- the program ---- */

/*
 * In how many milliseconds there is something to do, whatever happens; -1: never. Words
 * have to wait for the screen.
 */
static int wait_ms(void)
{
    int64_t now = clock_ms(), until = INT64_MAX, settled_at = chat.screen.settled_at;

    if (chat.on_screen && !chat.status_said && !chat.screen.unwritten)
        until = chat.status_at > settled_at ? chat.status_at : settled_at;
    if (settled_at > now && settled_at < until)
        until = settled_at;
    if (chat.stage == NOWHERE && !chat.leaving && chat.retry_at < until)
        until = chat.retry_at;
    if (greeting_awaited() && chat.greeted_at < until)
        until = chat.greeted_at;
    return until == INT64_MAX ? -1 : until > now ? (int)(until - now) : 0;
}

/* What does not depend on an event, but on what the events have left. */
static void chat_go_on(void)
{
    if (chat.on_screen)
        typed_edit();
    if (greeting_awaited() && clock_ms() >= chat.greeted_at)
        chat.greeted = true;
    if (chat.input_ended && chat.stage == CONNECTED && chat.greeted && !chat.shut &&
        chat.out.len == 0) {
        shutdown(chat.server, SHUT_WR);
        chat.shut = true;
    }
    if (chat.stage == NOWHERE && !chat.leaving && clock_ms() >= chat.retry_at)
        server_dial();
    if (chat.on_screen && chat.leaving)
        screen_leave(&chat.screen);
    else if (chat.on_screen && screen_ready(&chat.screen, clock_ms())) {
        status_update();
        screen_draw(&chat.screen);
    }
    if (chat.shown)
        screen_write();
}

static void chat_wait(void)
{
    enum { INPUT, OUTPUT, SERVER, SIGNALS, WATCHED };
    bool input = chat.on_screen ? !chat.hung_up : input_room();
    int output = chat.shown ? tty_output() : STDOUT_FILENO;
    short server = server_interest();
    struct pollfd watched[WATCHED] = {
        [INPUT] = {.fd = input ? STDIN_FILENO : -1, .events = POLLIN},
        [OUTPUT] = {.fd = output_waits() ? output : -1, .events = POLLOUT},
        [SERVER] = {.fd = server != 0 ? chat.server : -1, .events = server},
        [SIGNALS] = {.fd = chat.screen.signals, .events = POLLIN}};

    while (poll(watched, WATCHED, wait_ms()) < 0)
        if (errno != EINTR) /* the signal has written to the pipe already */
            err(1, "poll");
    if (watched[SIGNALS].revents != 0)
        screen_on_signals(&chat.screen, clock_ms());
    if (watched[INPUT].revents != 0)
        on_input();
    if (watched[OUTPUT].revents != 0)
        on_output();
    if (watched[SERVER].revents != 0)
        on_server(watched[SERVER].revents);
}

static void options_parse(int argc, char **argv)
{
    int option;

    chat.host = "localhost";
    chat.port = "3100";
    opterr = 0; /* one line is enough: ours */
    while ((option = getopt(argc, argv, "hrt")) != -1) {
        if (option == 'h') {
            if (fputs(USAGE, stdout) < 0 || fflush(stdout) != 0)
                err(1, "write standard output");
            exit(0);
        }
        if (option == '?')
            errx(2, "-%c is not an option; chatcl -h explains", optopt);
        chat.retry |= option == 'r';
        chat.times |= option == 't';
    }
    if (argc - optind > 2)
        errx(2, "\"%s\" is one argument too many; chatcl -h explains", argv[optind + 2]);
    if (argc - optind > 0)
        chat.host = argv[optind];
    if (argc - optind > 1)
        chat.port = argv[optind + 1];
}

static void port_check(void)
{
    char *end;
    long number = strtol(chat.port, &end, 10);

    if (end == chat.port || *end != '\0' || number < 1 || number > 65535)
        errx(2, "port: \"%s\" is not a number from 1 to 65535", chat.port);
    snprintf(chat.name, sizeof chat.name, strchr(chat.host, ':') ? "[%s]:%s" : "%s:%s",
             chat.host, chat.port);
}

/* A socket in the place of a closed standard input would make the chat talk to itself. */
static void descriptors_fill(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    close(fd);
}

int main(int argc, char **argv)
{
    chat.screen.signals = chat.server = -1;
    options_parse(argc, argv);
    port_check();
    descriptors_fill();
    signal(SIGPIPE, SIG_IGN); /* a lost server is an error of write(2), not our end */
    chat.on_screen = screen_open(&chat.screen, chat.times);
    chat.shown = chat.on_screen || screen_open_plain(&chat.screen, chat.times);
    chat_go_on();
    while (!chat.leaving || output_waits()) {
        chat_wait();
        chat_go_on();
    }
    dial_close(&chat.dial);
    if (chat.on_screen)
        screen_close(&chat.screen);
    if (chat.farewell[0] != '\0')
        warnx("%s", chat.farewell);
    return chat.exit_status;
}
