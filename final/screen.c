/*
 * screen - see screen.h. Systems: Linux, macOS and the BSDs.
 */
#include "screen.h"

#include <err.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "show.h"
#include "tty.h"

/* A window that has kept its size for this many milliseconds is not being dragged. */
enum { SETTLE_MS = 100, ROWS_DEFAULT = 24 };

FILE *screen_print(void)
{
    edit_hide(tty_page());
    return tty_page();
}

/*
 * The terminal takes UTF-8, even if the locale does not say so. That is worth a line only
 * to those who type there.
 */
static void locale_set(bool plain)
{
    char encoding[64];

    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") == 0)
        return;
    snprintf(encoding, sizeof encoding, "%s", nl_langinfo(CODESET));
    if (setlocale(LC_CTYPE, "C.UTF-8") == NULL)
        setlocale(LC_CTYPE, "en_US.UTF-8");
    if (!plain)
        fprintf(screen_print(),
                "chatcl: the locale says %s; this is UTF-8 all the same\n", encoding);
}

bool screen_open(struct screen *screen, bool times)
{
    const char *no_color = getenv("NO_COLOR");

    if (!tty_capable())
        return false;
    screen->signals = tty_open();
    if (screen->signals < 0)
        err(1, "tty_open");
    screen->colour = no_color == NULL || *no_color == '\0';
    screen->times = times;
    locale_set(false);
    edit_open(&screen->line, "> ", tty_columns());
    return true;
}

bool screen_open_plain(struct screen *screen, bool times)
{
    if (!isatty(STDOUT_FILENO))
        return false;
    if (tty_open_output() < 0)
        err(1, "tty_open_output");
    screen->times = times;
    screen->plain = true;
    locale_set(true);
    return true;
}

void screen_close(struct screen *screen)
{
    tty_close();
    edit_close(&screen->line);
}

bool screen_ready(const struct screen *screen, int64_t now)
{
    return !screen->unwritten && now >= screen->settled_at;
}

void screen_show(const struct screen *screen, struct buffer *in, bool all)
{
    FILE *page = screen->plain ? tty_page() : screen_print();
    char stamp[16] = "";
    time_t now = time(NULL);

    if (screen->times)
        strftime(stamp, sizeof stamp, "%H:%M:%S ", localtime(&now));
    buffer_drop(
        in, show_lines(in->bytes + in->start, in->len, all, screen->colour, stamp, page));
}

/* However often it is asked for, while nobody looks. */
void screen_clear(struct screen *screen)
{
    screen->clearing = true;
}

/*
 * It scrolls, for clearing would take away what others have said; and the cursor stays at
 * the bottom: to go up is safe only for those who know how high the window is now.
 */
static void screen_scroll(void)
{
    FILE *page = screen_print();
    int rows = tty_rows();

    for (int row = 1; row < (rows > 0 ? rows : ROWS_DEFAULT); row++)
        fputc('\n', page);
}

void screen_draw(struct screen *screen)
{
    if (screen->clearing)
        screen_scroll();
    screen->clearing = false;
    if (screen->line_left)
        edit_hide(tty_page());
    else
        edit_draw(&screen->line, tty_page());
}

void screen_leave(struct screen *screen)
{
    if (screen->line_left || screen->line.len == 0)
        edit_hide(tty_page());
    else
        edit_leave(&screen->line, tty_page());
    screen->line_left = true;
}

int screen_flush(struct screen *screen)
{
    int flushed = tty_flush();

    screen->unwritten = flushed == 0;
    return flushed < 0 ? -1 : 0;
}

void screen_pass_signal(struct screen *screen, int number)
{
    if (!screen->line_left)
        edit_leave(&screen->line, tty_page());
    (void)screen_flush(screen);
    tty_signal(number);
}

void screen_on_signals(struct screen *screen, int64_t now)
{
    enum tty_event event;

    while ((event = tty_event()) != TTY_NONE)
        if (event == TTY_STOP)
            screen_pass_signal(screen, SIGTSTP);
    if (tty_columns() != screen->line.columns)
        screen->settled_at = now + SETTLE_MS;
    edit_resize(&screen->line, tty_columns());
}
