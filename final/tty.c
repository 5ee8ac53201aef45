/*
 * tty - see tty.h. Systems: Linux, macOS and the BSDs.
 *
 * The handlers call nothing but what signal-safety(7) allows: tcsetattr, tcflush,
 * tcgetpgrp, getpgrp, write and raise.
 */
#include "tty.h"

#include "paste.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* Pastes are marked. Off again, with what half a draw may have left: wrapping, colour. */
static const char MODES_ON[] = "\x1b[?2004h", MODES_OFF[] = "\x1b[?2004l\x1b[?7h\x1b[m";

enum { PASTE_SILENT_MS = 1000 }; /* a paste that pauses for so long is over */

static struct {
    struct termios before;
    volatile sig_atomic_t raw;
    bool never_stops; /* whoever started the program has SIGTSTP ignored */
    int pipe[2];      /* from the handler, a byte of enum tty_event each */
    int output;
    FILE *page;
    char *page_bytes;
    size_t page_len, page_written;
    struct paste paste; /* where in the keys we are */
} tty;

bool tty_capable(void)
{
    const char *term = getenv("TERM");

    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && term != NULL &&
           *term != '\0' && strcmp(term, "dumb") != 0;
}

/* ---- the window ---- */

int tty_columns(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

int tty_rows(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_row : 0;
}

/*
 * The terminal is opened once more, for O_NONBLOCK would otherwise hold for all programs
 * that share it. If that cannot be done, writing may have to wait.
 */
int tty_open_output(void)
{
    const char *name = ttyname(STDOUT_FILENO);

    tty.page = open_memstream(&tty.page_bytes, &tty.page_len);
    if (tty.page == NULL)
        return -1;
    tty.output = name == NULL ? -1 : open(name, O_WRONLY | O_NOCTTY | O_NONBLOCK);
    if (tty.output < 0)
        tty.output = STDOUT_FILENO;
    return 0;
}

FILE *tty_page(void)
{
    return tty.page;
}

int tty_output(void)
{
    return tty.output;
}

/* A signal that interrupts is no error: poll(2) finds the terminal writable again. */
int tty_flush(void)
{
    if (fflush(tty.page) != 0)
        return -1;
    while (tty.page_written < tty.page_len) {
        ssize_t written = write(tty.output, tty.page_bytes + tty.page_written,
                                tty.page_len - tty.page_written);

        if (written < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
        tty.page_written += (size_t)written;
    }
    rewind(tty.page);
    tty.page_written = tty.page_len = 0;
    return 1;
}

/* ---- raw mode ---- */

/* Raw first: a signal in between restores once too often, which is harmless. */
static int raw_start(void)
{
    struct termios raw = tty.before;

    raw.c_iflag &= (tcflag_t) ~(ICRNL | INLCR | IGNCR | ISTRIP | IXON);
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO | ISIG | IEXTEN);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tty.raw = true;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
        return -1;
    (void)!write(tty.output, MODES_ON, sizeof MODES_ON - 1);
    return 0;
}

/* If nobody reads what is shown, a deadly signal drops it, as ^C in other modes does. */
static void modes_end(bool at_the_end)
{
    const ssize_t len = sizeof MODES_OFF - 1;

    if (write(tty.output, MODES_OFF, (size_t)len) == len || !at_the_end)
        return;
    tcflush(STDIN_FILENO, TCOFLUSH);
    (void)!write(tty.output, MODES_OFF, (size_t)len);
}

/*
 * Is there a raw mode to end? In the background there is not: the terminal belongs to
 * another program, which has set it as it wants.
 */
static bool raw_here(void)
{
    pid_t foreground = tcgetpgrp(STDIN_FILENO); /* -1: no shell has this terminal */

    return tty.raw && (foreground < 0 || foreground == getpgrp());
}

/*
 * Returns whether there was a raw mode to end. First what must happen, then what may
 * fail; and raw stays true until it has happened.
 */
static bool raw_end(bool at_the_end)
{
    if (!raw_here())
        return false;
    tcsetattr(STDIN_FILENO, TCSANOW, &tty.before);
    tty.raw = false;
    modes_end(at_the_end);
    return true;
}

/* The shell would run the rest of a paste: it has not seen the paste begin. */
static void paste_drop(void)
{
    struct pollfd keys = {.fd = STDIN_FILENO, .events = POLLIN};
    char bytes[4096];

    while (tty.paste.pasting) {
        int ready = poll(&keys, 1, PASTE_SILENT_MS);
        ssize_t got = ready > 0 ? read(STDIN_FILENO, bytes, sizeof bytes) : ready;

        if (got == 0 || (got < 0 && errno != EINTR))
            break;
        for (ssize_t i = 0; i < got; i++)
            paste_follow(&tty.paste, bytes[i]);
    }
    tcflush(STDIN_FILENO, TCIFLUSH);
}

/* Like modes_end(), but waits for room behind what was shown. */
static void modes_end_wait(void)
{
    struct pollfd output = {.fd = tty.output, .events = POLLOUT};
    const char *bytes = MODES_OFF;

    while (*bytes != '\0') {
        ssize_t written = write(tty.output, bytes, strlen(bytes));

        if (written > 0)
            bytes += written;
        else if (written < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return;
        else
            (void)poll(&output, 1, -1);
    }
}

/*
 * The keys come first, so that ^C ends the waiting. The handlers may stay: there will be
 * nothing left to restore.
 */
void tty_close(void)
{
    if (!raw_here())
        return;
    if (tty.paste.pasting)
        paste_drop();
    tcsetattr(STDIN_FILENO, TCSANOW, &tty.before);
    modes_end_wait();
    tty.raw = false;
}

/* ---- signals ---- */

/* SA_RESETHAND has made the default action the next one. It comes when this returns. */
static void on_deadly_signal(int number)
{
    if (raw_end(true))
        (void)!write(tty.output, "\n", 1);
    raise(number);
}

/* If the pipe is full, there are events enough. */
static void on_event_signal(int number)
{
    int error = errno;
    char event = number == SIGWINCH  ? TTY_RESIZED
                 : number == SIGTSTP ? TTY_STOP
                                     : TTY_RESUMED;

    (void)!write(tty.pipe[1], &event, 1);
    errno = error;
}

/* While one signal is dealt with, all others wait. */
static void signal_handle(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

    sigfillset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static bool is_deadly(int number)
{
    static const int harmless[] = {
#ifdef SIGINFO /* ^T on macOS and the BSDs, where SIGIO is harmless, too */
        SIGINFO, SIGIO,
#endif
        SIGCHLD, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};

    for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++)
        if (harmless[i] == number)
            return false;
    return true;
}

/* SIGKILL and gaps are refused. */
static bool is_ignored(int number)
{
    struct sigaction now;

    return sigaction(number, NULL, &now) < 0 || now.sa_handler == SIG_IGN;
}

/* What is ignored, as SIGHUP after nohup(1), stays so. */
static void signals_handle(void)
{
    for (int number = 1; number < NSIG; number++)
        if (is_deadly(number) && !is_ignored(number))
            signal_handle(number, on_deadly_signal, (int)SA_RESETHAND);
    tty.never_stops = is_ignored(SIGTSTP);
    if (!tty.never_stops)
        signal_handle(SIGTSTP, on_event_signal, SA_RESTART);
    signal_handle(SIGWINCH, on_event_signal, SA_RESTART);
    signal_handle(SIGCONT, on_event_signal, SA_RESTART);
}

int tty_open(void)
{
    if (tcgetattr(STDIN_FILENO, &tty.before) < 0 || pipe(tty.pipe) < 0)
        return -1;
    for (int i = 0; i < 2; i++)
        if (fcntl(tty.pipe[i], F_SETFL, O_NONBLOCK) < 0)
            return -1;
    if (tty_open_output() < 0)
        return -1;
    signals_handle();
    atexit(tty_close);
    return raw_start() < 0 ? -1 : tty.pipe[0];
}

/* Whoever had the terminal while this program was stopped left it in other modes. */
enum tty_event tty_event(void)
{
    char event;

    if (read(tty.pipe[0], &event, 1) != 1)
        return TTY_NONE;
    if (event == TTY_RESUMED)
        raw_start();
    return (enum tty_event)event;
}

/* Is this program in the foreground of its terminal? */
static bool in_foreground(void)
{
    return tcgetpgrp(STDIN_FILENO) == getpgrp();
}

/*
 * In an orphaned process group nothing stops: raw_start does not wait for a SIGCONT. Else
 * the user may have set other keys meanwhile, with stty(1) for example.
 */
void tty_signal(int number)
{
    raw_end(number != SIGTSTP);
    if (number == SIGTSTP)
        signal_handle(SIGTSTP, SIG_DFL, 0);
    kill(in_foreground() ? 0 : getpid(), number);
    if (number == SIGTSTP)
        signal_handle(SIGTSTP, on_event_signal, SA_RESTART);
    if (!tty.raw && in_foreground())
        tcgetattr(STDIN_FILENO, &tty.before);
    raw_start();
}

/* ---- keys ---- */

/* The keys are those that the user has set, with stty(1) for example. */
int tty_key_signal(char byte)
{
    static const struct {
        int number, key;
    } keys[] = {{SIGINT, VINTR}, {SIGQUIT, VQUIT}, {SIGTSTP, VSUSP}};
    const cc_t *set = tty.before.c_cc;

    paste_follow(&tty.paste, byte);
    if (tty.paste.pasting || !(tty.before.c_lflag & ISIG) ||
        (cc_t)byte == _POSIX_VDISABLE)
        return 0;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if ((cc_t)byte == set[keys[i].key])
            return keys[i].number == SIGTSTP && tty.never_stops ? 0 : keys[i].number;
    return 0;
}
