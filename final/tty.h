/*
 * tty - the terminal of an interactive program: raw mode, its size, its signals
 *
 * Whatever ends the program, the terminal is as it was before: tty_close does that, and
 * for every deadly signal a handler, which then lets the signal do what it does by
 * default.
 *
 * In raw mode ^C, ^\ and ^Z are bytes like others, for a pasted text may hold them. Pass
 * each byte to tty_key_signal as soon as it is typed. Writing never waits: what the
 * terminal does not take yet is kept in a page.
 *
 * Interface: tty_open; poll(2) the descriptor it returns and ask tty_event what came;
 * print to tty_page and call tty_flush; tty_close. One terminal per program: standard
 * input and output. To print only, with no raw mode: tty_open_output, tty_page and
 * tty_flush.
 */
#ifndef TTY_H
#define TTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* What signals have told. */
enum tty_event {
    TTY_NONE,    /* no more events */
    TTY_RESIZED, /* the window may have another size */
    TTY_STOP,    /* SIGTSTP: call tty_signal when the screen is in order */
    TTY_RESUMED  /* raw mode is on again, the screen may hold anything */
};

/* Are standard input and output a terminal that can do more than print? */
bool tty_capable(void);

/* Makes the page, to be written to standard output. Returns 0; -1 and errno. */
int tty_open_output(void);

/*
 * Does that and starts raw mode. Returns a descriptor, readable when there are events; -1
 * and errno.
 */
int tty_open(void);

/*
 * Ends raw mode, if that has not been done yet, and waits until the terminal has taken
 * that. In the middle of a paste, its rest is awaited and dropped first.
 */
void tty_close(void);

/* Returns the oldest event not returned yet. */
enum tty_event tty_event(void);

/*
 * Takes a byte that was typed. Returns the signal that the terminal would send for it if
 * it were not in raw mode; 0 if it is none of those keys, or pasted, or if it is the key
 * to stop in a program that was started with SIGTSTP ignored.
 */
int tty_key_signal(char byte);

/*
 * Does what the terminal does by itself when it is not in raw mode: ends raw mode and
 * sends the signal to all programs in the foreground. Returns if this one still runs, or
 * runs again, in raw mode.
 */
void tty_signal(int number);

/* What is printed here is written by tty_flush. */
FILE *tty_page(void);

/*
 * Writes the page, as far as the terminal takes it. Returns 1 if all is written; 0 if
 * tty_output has to become writable first; -1 and errno.
 */
int tty_flush(void);

/* Returns the descriptor that tty_flush writes to. */
int tty_output(void);

/* Return the size of the window, 0 if it is not known. */
int tty_columns(void);
int tty_rows(void);

#endif
