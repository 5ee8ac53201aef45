/*
 * tty - see tty.h. Systems: Linux, macOS and the BSDs.
 *
 * The handlers call nothing but tcsetattr, tcgetpgrp, getpgrp, write and raise, which
 * signal-safety(7) allows.
 */
#include "tty.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static const char PASTE_ON[] = "\x1b[?2004h", PASTE_OFF[] = "\x1b[?2004l";

static struct {
    struct termios before;
    volatile sig_atomic_t raw;
    int pipe[2]; /* from the handler, a byte of enum tty_event each */
} tty;

bool tty_capable(void)
{
    const char *term = getenv("TERM");

    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && term != NULL &&
           *term != '\0' && strcmp(term, "dumb") != 0;
}

int tty_columns(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

static void text_write(const char *text, size_t len)
{
    ssize_t written = write(STDOUT_FILENO, text, len);

    (void)written; /* there is nowhere to say so */
}

/* IEXTEN is what makes ^V, ^O and ^Y special. The output is processed as before. */
static int raw_start(void)
{
    struct termios raw = tty.before;

    raw.c_iflag &= (tcflag_t) ~(ICRNL | INLCR | IGNCR | ISTRIP | IXON);
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO | IEXTEN);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
        return -1;
    tty.raw = true;
    text_write(PASTE_ON, sizeof PASTE_ON - 1);
    return 0;
}

/*
 * Returns whether there was a raw mode to end. In the background there is not: the
 * terminal belongs to somebody else, who has set it as he wants.
 */
static bool raw_end(void)
{
    if (!tty.raw || tcgetpgrp(STDIN_FILENO) != getpgrp())
        return false;
    tty.raw = false;
    text_write(PASTE_OFF, sizeof PASTE_OFF - 1);
    tcsetattr(STDIN_FILENO, TCSANOW, &tty.before);
    return true;
}

/* SA_RESETHAND has made the default action the next one. It comes when this returns. */
static void on_deadly_signal(int number)
{
    if (raw_end())
        text_write("\n", 1);
    raise(number);
}

static void on_event_signal(int number)
{
    int error = errno;
    char event = number == SIGWINCH  ? TTY_RESIZED
                 : number == SIGTSTP ? TTY_STOP
                                     : TTY_RESUMED;
    ssize_t written = write(tty.pipe[1], &event, 1);

    (void)written; /* if the pipe is full, there are events enough */
    errno = error;
}

static void signals_handle(const int *numbers, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

    sigemptyset(&action.sa_mask);
    for (; *numbers != 0; numbers++)
        sigaction(*numbers, &action, NULL);
}

static const int deadly[] = {SIGINT,  SIGTERM, SIGHUP, SIGQUIT, SIGSEGV,
                             SIGABRT, SIGBUS,  SIGFPE, SIGILL,  0};
static const int telling[] = {SIGWINCH, SIGTSTP, SIGCONT, 0};

int tty_open(void)
{
    if (tcgetattr(STDIN_FILENO, &tty.before) < 0 || pipe(tty.pipe) < 0)
        return -1;
    for (int i = 0; i < 2; i++)
        if (fcntl(tty.pipe[i], F_SETFL, O_NONBLOCK) < 0)
            return -1;
    signals_handle(deadly, on_deadly_signal, (int)SA_RESETHAND);
    signals_handle(telling, on_event_signal, SA_RESTART);
    atexit(tty_close);
    return raw_start() < 0 ? -1 : tty.pipe[0];
}

/* The handlers may stay: there is nothing left to restore. */
void tty_close(void)
{
    raw_end();
}

/* Whoever had the terminal while this program was stopped left it in modes of his own. */
enum tty_event tty_event(void)
{
    char event;

    if (read(tty.pipe[0], &event, 1) != 1)
        return TTY_NONE;
    if (event == TTY_RESUMED)
        raw_start();
    return (enum tty_event)event;
}

/* In an orphaned process group nothing stops: raw_start does not wait for a SIGCONT. */
void tty_stop(void)
{
    static const int stop[] = {SIGTSTP, 0};

    raw_end();
    signals_handle(stop, SIG_DFL, 0);
    raise(SIGTSTP);
    signals_handle(stop, on_event_signal, SA_RESTART);
    raw_start();
}
