/*
 * chatcl - a chat client: what is typed goes to the server, what others say is shown
 *
 * On a terminal the line that is typed stays below what comes in, can be edited (edit.h)
 * and vanishes when sent: it is shown when the server sends it back. In a pipe, or on a
 * terminal that can only print, bytes go in and out as they are; at the end of the input
 * the sending side is closed, and the rest of what the server says is still shown.
 *
 * Nothing is read from anywhere unless there is room for it: a server that does not read
 * makes the input wait, a slow output makes the server wait. Memory does not grow.
 *
 * Exit status: 0 if the server has closed the connection after the end of the input (on a
 * terminal, ^D in an empty line), in a pipe also if it did before and nothing was left to
 * send; 1 if it could not be reached or is gone; 2 for wrong usage; ^C and other signals
 * end the program as signals do, which a shell calls 130 for ^C.
 *
 * With -r the server is dialled again, for ever, after 1, 2, 4 ... 30 s. What is typed
 * meanwhile is sent then; what the old connection had not delivered yet may be lost.
 *
 * Usage: chatcl -h
 * Systems: Linux, macOS and the BSDs (poll)
 */
#include "buffer.h"
#include "dial.h"
#include "edit.h"
#include "show.h"
#include "tty.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

_Static_assert(BUFFER_SIZE > 2 * EDIT_MAX, "a line can be added while one is sent");

enum { RETRY_MAX = 30 }; /* seconds between two attempts to connect */

static const char USAGE[] =
    "usage: chatcl [-hr] [host [port]]\n"
    "  -r  when the server goes away or cannot be reached, try again and again\n"
    "  -h  show this text\n"
    "The host is localhost and the port 3100 unless given.\n"
    "On a terminal, Up and Down recall earlier lines, ^D says goodbye, ^C leaves at "
    "once.\n";

static struct {
    const char *host, *port;
    bool retry;  /* -r */
    bool screen; /* on a terminal, with a line being edited */
    bool colour;
    struct edit edit;    /* the line */
    struct buffer typed; /* what is not in the line yet */
    int signals;         /* readable when tty_event has something to tell; or -1 */
    struct buffer out;   /* to the server */
    struct buffer in;    /* from the server, not shown yet */
    int server;          /* the socket; -1: there is none now */
    bool connected;      /* false: it is being connected, */
    struct dial dial;    /* by this */
    int retry_s;         /* seconds to wait for the next attempt, */
    int64_t retry_at;    /* and until when, in monotonic milliseconds */
    bool input_ended;    /* nothing more will be typed, */
    bool shut;           /* and the server knows */
    bool deaf;           /* the server takes no more; reading will tell why */
    bool leaving;        /* as soon as what came in has been written, */
    int status;          /* with this exit status */
    char farewell[512];  /* and these last words on standard error */
} chat = {.host = "localhost", .port = "3100", .signals = -1, .server = -1};

/* ---- the screen ---- */

/* The terminal takes UTF-8, even if the locale does not say so. */
static void locale_set(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") == 0)
        return;
    if (setlocale(LC_CTYPE, "C.UTF-8") == NULL)
        setlocale(LC_CTYPE, "en_US.UTF-8");
}

static void screen_open(void)
{
    const char *no_color = getenv("NO_COLOR");

    if (!tty_capable())
        return;
    locale_set();
    chat.signals = tty_open();
    if (chat.signals < 0)
        err(1, "terminal");
    chat.screen = true;
    chat.colour = no_color == NULL || *no_color == '\0';
    edit_open(&chat.edit, "> ", tty_columns());
}

static void screen_draw(void)
{
    if (chat.input_ended)
        edit_hide(&chat.edit, stdout);
    else
        edit_draw(&chat.edit, stdout);
    fflush(stdout);
}

/* Writes whole lines; their beginnings wait for the rest, unless none will come. */
static void screen_show(bool all)
{
    struct buffer *in = &chat.in;

    edit_hide(&chat.edit, stdout);
    buffer_drop(in, show_lines(in->bytes + in->start, in->len, all, chat.colour, stdout));
}

/* What was being typed stays on the screen. */
static void screen_close(void)
{
    if (!chat.screen)
        return;
    if (chat.edit.len == 0)
        edit_hide(&chat.edit, stdout);
    else
        edit_leave(&chat.edit, stdout);
    fflush(stdout);
    tty_close();
    edit_close(&chat.edit);
}

/* ---- the server ---- */

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
static void leave(int status, const char *call, const char *what, const char *reason)
{
    chat.leaving = true;
    chat.status = status;
    snprintf(chat.farewell, sizeof chat.farewell, "%s %s: %s", call, what, reason);
}

/* There is no connection, or no longer. */
static void server_lost(const char *call, const char *reason)
{
    char name[256];

    dial_close(&chat.dial);
    chat.server = -1;
    chat.connected = chat.shut = chat.deaf = false;
    snprintf(name, sizeof name, strchr(chat.host, ':') ? "[%s]:%s" : "%s:%s", chat.host,
             chat.port);
    if (!chat.retry) {
        leave(1, call, name, reason);
        return;
    }
    chat.retry_s = chat.retry_s == 0 ? 1 : 2 * chat.retry_s;
    if (chat.retry_s > RETRY_MAX)
        chat.retry_s = RETRY_MAX;
    chat.retry_at = clock_ms() + 1000 * chat.retry_s;
    if (chat.screen)
        edit_hide(&chat.edit, stdout);
    fprintf(chat.screen ? stdout : stderr, "chatcl: %s %s: %s; trying again in %d s\n",
            call, name, reason, chat.retry_s);
}

static void server_dial_next(void)
{
    chat.server = dial_next(&chat.dial);
    if (chat.server < 0)
        server_lost("connect", strerror(errno));
}

static void server_dial(void)
{
    const char *error = dial_open(&chat.dial, chat.host, chat.port);

    if (error != NULL)
        server_lost("getaddrinfo", error);
    else
        server_dial_next();
}

static void on_dialled(void)
{
    if (!dial_connected(&chat.dial, chat.server)) {
        server_dial_next();
        return;
    }
    dial_close(&chat.dial);
    chat.connected = true;
    chat.retry_s = 0;
}

/* In a pipe the server may hang up first, as long as it has taken all there was. */
static void on_server_end(int error)
{
    bool orderly = chat.shut || (!chat.screen && !chat.retry && chat.out.len == 0);

    if (chat.screen)
        screen_show(true);
    close(chat.server);
    chat.server = -1;
    if (error != 0)
        server_lost("read", strerror(error));
    else if (orderly)
        chat.leaving = true;
    else
        server_lost("read", "The server has closed the connection");
}

static void on_server_readable(void)
{
    ssize_t got = buffer_read(&chat.in, chat.server);

    if (got > 0 && chat.screen)
        screen_show(false);
    else if (got == 0)
        on_server_end(0);
    else if (got < 0 && !would_block(errno))
        on_server_end(errno);
}

/* The last words of a server that is gone are still to be read, and then the reason. */
static void on_server_writable(void)
{
    if (buffer_write(&chat.out, chat.server, BUFFER_SIZE) < 0 && !would_block(errno))
        chat.deaf = true;
}

static short server_interest(void)
{
    bool readable = buffer_room(&chat.in) > 0;
    bool writable = chat.out.len > 0 && !chat.deaf;

    if (chat.leaving)
        return 0;
    if (!chat.connected)
        return POLLOUT;
    return (short)((readable ? POLLIN : 0) | (writable ? POLLOUT : 0));
}

/* Errors and hang-ups: reading tells what happened. */
static void on_server(short ready)
{
    if (!chat.connected) {
        on_dialled();
        return;
    }
    if (ready & POLLOUT)
        on_server_writable();
    if ((ready & ~POLLOUT) && buffer_room(&chat.in) > 0)
        on_server_readable();
}

/* ---- the user ---- */

/* A pasted line end at the end of the line is the one that Enter would add. */
static void line_send(void)
{
    const struct edit *line = &chat.edit;

    if (line->len == 0)
        return;
    buffer_add(&chat.out, line->text, line->len);
    if (line->text[line->len - 1] != '\n')
        buffer_add(&chat.out, "\n", 1);
    edit_next(&chat.edit);
}

/* Without a connection, and with nothing left for the next one, all has been said. */
static void input_end(void)
{
    chat.input_ended = true;
    if (chat.screen && chat.server < 0 && chat.out.len == 0)
        chat.leaving = true;
}

/* Is there room for the longest line? */
static bool input_room(void)
{
    return !chat.input_ended && !chat.leaving && buffer_room(&chat.out) > EDIT_MAX;
}

static void typed_edit(void)
{
    while (chat.typed.len > 0 && input_room()) {
        const char *bytes = chat.typed.bytes + chat.typed.start;
        size_t used;
        enum edit_event event = edit_feed(&chat.edit, bytes, chat.typed.len, &used);

        buffer_drop(&chat.typed, used);
        if (event == EDIT_LINE)
            line_send();
        else if (event == EDIT_END)
            input_end();
        else if (event == EDIT_REDRAW)
            fputs("\x1b[H\x1b[2J", stdout);
    }
}

static void on_input(void)
{
    ssize_t got = buffer_read(chat.screen ? &chat.typed : &chat.out, STDIN_FILENO);

    if (got == 0)
        input_end();
    else if (got < 0 && !would_block(errno))
        leave(1, "read", "standard input", strerror(errno));
}

/* On a terminal all is written at once. */
static bool output_waits(void)
{
    return !chat.screen && chat.in.len > 0;
}

/* Of a blocking pipe, poll(2) promises no more than that PIPE_BUF bytes do not block. */
static void on_output(void)
{
    if (buffer_write(&chat.in, STDOUT_FILENO, PIPE_BUF) >= 0 || would_block(errno))
        return;
    leave(1, "write", "standard output", strerror(errno));
    chat.in.len = 0;
}

static void on_signals(void)
{
    enum tty_event event;

    while ((event = tty_event()) != TTY_NONE)
        if (event == TTY_STOP) {
            edit_leave(&chat.edit, stdout);
            fflush(stdout);
            tty_stop();
        }
    edit_resize(&chat.edit, tty_columns());
    screen_draw();
}

/* ---- the program ---- */

static int wait_ms(void)
{
    int64_t left = chat.retry_at - clock_ms();

    if (chat.server >= 0 || chat.leaving)
        return -1;
    return left > 0 ? (int)left : 0;
}

/* What does not depend on an event, but on what the events have left. */
static void chat_go_on(void)
{
    if (chat.screen)
        typed_edit();
    if (chat.input_ended && chat.connected && !chat.shut && chat.out.len == 0) {
        shutdown(chat.server, SHUT_WR);
        chat.shut = true;
    }
    if (chat.server < 0 && wait_ms() == 0)
        server_dial();
    if (chat.screen)
        screen_draw();
}

static void chat_wait(void)
{
    enum { INPUT, OUTPUT, SERVER, SIGNALS, WATCHED };
    bool input = input_room() && chat.typed.len == 0;
    bool output = output_waits();
    short server = server_interest();
    struct pollfd watched[WATCHED] = {
        [INPUT] = {.fd = input ? STDIN_FILENO : -1, .events = POLLIN},
        [OUTPUT] = {.fd = output ? STDOUT_FILENO : -1, .events = POLLOUT},
        [SERVER] = {.fd = server != 0 ? chat.server : -1, .events = server},
        [SIGNALS] = {.fd = chat.signals, .events = POLLIN}};

    while (poll(watched, WATCHED, wait_ms()) < 0)
        if (errno != EINTR) /* the signal has written to the pipe already */
            err(1, "poll");
    if (watched[SIGNALS].revents != 0)
        on_signals();
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

    opterr = 0; /* one line is enough: ours */
    while ((option = getopt(argc, argv, "hr")) != -1) {
        if (option == 'h') {
            fputs(USAGE, stdout);
            exit(fflush(stdout) == 0 ? 0 : 1);
        }
        if (option != 'r')
            errx(2, "-%c is not an option; chatcl -h explains", optopt);
        chat.retry = true;
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
    options_parse(argc, argv);
    port_check();
    descriptors_fill();
    signal(SIGPIPE, SIG_IGN); /* a lost server is an error of write(2), not our end */
    screen_open();
    server_dial();
    while (!chat.leaving || output_waits()) {
        chat_wait();
        chat_go_on();
    }
    screen_close();
    if (chat.farewell[0] != '\0')
        warnx("%s", chat.farewell);
    return chat.status;
}
