/*
 * tty_test.c - final/tty.c: nothing that was shown is lost where the program ends
 *
 * The program shows a page and then fills the terminal, of which nothing is read, so that
 * there is no room for what ends the modes. Reading begins when it has ended raw mode.
 */
#define _XOPEN_SOURCE 600 /* posix_openpt */
#include "../../final/tty.h"
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { SETTLE_MS = 20 }; /* after that the system has moved on what was written */

static const char modes_on[] = "\x1b[?2004h", modes_off[] = "\x1b[?2004l\x1b[?7h\x1b[m";
static const char page[] = "what was said last\r\n";

static char got[1 << 20];

/* Returns a terminal's other end; at *terminal, the terminal. */
static int terminal_open(int *terminal)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);

    CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    *terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(*terminal >= 0);
    return master;
}

/* Writes '#' for as long as there is room; returns how many. */
static size_t fill(void)
{
    size_t len = 0, before;

    do {
        before = len;
        while (write(tty_output(), "#", 1) == 1)
            len++;
        (void)poll(NULL, 0, SETTLE_MS);
    } while (len > before);
    return len;
}

/* Tells how many '#' there were, and ends raw mode. */
static void program(int terminal, int reply)
{
    size_t filling;

    CHECK(dup2(terminal, STDIN_FILENO) == STDIN_FILENO);
    CHECK(dup2(terminal, STDOUT_FILENO) == STDOUT_FILENO);
    close(terminal);
    CHECK(tty_open() >= 0);
    CHECK(fputs("what was said last\n", tty_page()) >= 0 && tty_flush() == 1);
    filling = fill();
    CHECK(write(reply, &filling, sizeof filling) == sizeof filling);
    exit(0); /* which calls tty_close() */
}

static bool is_raw(int terminal)
{
    struct termios modes;

    CHECK(tcgetattr(terminal, &modes) == 0);
    return !(modes.c_lflag & ICANON);
}

/* Reads all that was written, until nobody has the terminal any more. */
static size_t read_all(int master)
{
    size_t len = 0;
    ssize_t n;

    while ((n = read(master, got + len, sizeof got - len)) > 0)
        len += (size_t)n;
    return len;
}

/* Returns what follows the text, with which the bytes have to begin. */
static const char *pass(const char *bytes, const char *text)
{
    CHECK(strncmp(bytes, text, strlen(text)) == 0);
    return bytes + strlen(text);
}

static void check_got(size_t len, size_t filling)
{
    const char *at = pass(pass(got, modes_on), page);

    CHECK_EQUAL((long)len, (long)(strlen(modes_on) + strlen(page) + filling) +
                               (long)strlen(modes_off));
    CHECK(strspn(at, "#") == filling);
    pass(at + filling, modes_off);
}

int main(void)
{
    int terminal, master = terminal_open(&terminal), reply[2], status;
    size_t filling;
    pid_t pid;

    CHECK(pipe(reply) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        program(terminal, reply[1]);
    close(reply[1]);
    CHECK(read(reply[0], &filling, sizeof filling) == sizeof filling);
    while (is_raw(terminal))
        (void)poll(NULL, 0, 1);
    (void)poll(NULL, 0, SETTLE_MS);
    close(terminal);
    check_got(read_all(master), filling);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    return checks_end();
}
