/*
 * screen - the client on a terminal: what others say, and the typed line below it
 *
 * It brings the terminal (tty.h), the line editor (edit.h) and the lines of others
 * (show.h) together, in the one order that keeps them apart: hide the typed line, print,
 * draw it again. What the terminal does not take at once is written later: nothing here
 * waits.
 *
 * Interface: screen_open; poll(2) `signals`, and tty_output while `unwritten`; after each
 * turn screen_draw if screen_ready, and screen_flush; tty_close and screen_close.
 * After screen_open_plain there is no typed line, and nothing but screen_ready,
 * screen_show and screen_flush is to be called.
 */
#ifndef SCREEN_H
#define SCREEN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "buffer.h"
#include "edit.h"

struct screen {
    struct edit line;   /* what is being typed */
    int64_t settled_at; /* when the window has its size, in monotonic milliseconds */
    int signals;        /* readable when screen_on_signals has something to do */
    bool colour, times; /* an address has a colour; a line begins with the time */
    bool plain;         /* there is no typed line */
    bool line_left;     /* the typed line is done with */
    bool clearing;      /* the screen is to be emptied */
    bool unwritten;     /* the terminal does not take what it is to show */
};

/*
 * Starts, if standard input and output are a terminal that can do more than print; else
 * returns false. An error ends the program.
 */
bool screen_open(struct screen *screen, bool times);

/*
 * Starts without a typed line, if standard output is a terminal, even one that can only
 * print; else returns false. An error ends the program.
 */
bool screen_open_plain(struct screen *screen, bool times);

/* Gives the terminal back. */
void screen_close(struct screen *screen);

/* Does the terminal keep up, and the window its size? Else do not print what can wait. */
bool screen_ready(const struct screen *screen, int64_t now);

/* Makes room for a line of text, and returns where to print it. */
FILE *screen_print(void);

/* Shows whole lines from the server; an unfinished one waits for the rest, unless all. */
void screen_show(const struct screen *screen, struct buffer *in, bool all);

/* Lets screen_draw empty the screen first. Scrolling back still finds what was there. */
void screen_clear(struct screen *screen);

/* Shows the typed line; before that, empties the screen if that is to be done. */
void screen_draw(struct screen *screen);

/* Shows it for the last time: the shell's prompt comes below. Hides it if it is empty. */
void screen_leave(struct screen *screen);

/* Writes as much as the terminal takes. Returns 0; -1 and errno. */
int screen_flush(struct screen *screen);

/* A signal for all programs in the foreground, this one included: see tty_signal. */
void screen_pass_signal(struct screen *screen, int number);

/* Deals with the signals that have come. */
void screen_on_signals(struct screen *screen, int64_t now);

#endif
