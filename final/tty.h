/*
 * tty - the terminal of an interactive program: raw mode, its size, its signals
 *
 * Whatever ends the program, the terminal is as it was before: tty_close, or, on SIGINT,
 * SIGTERM, SIGHUP, SIGQUIT and the signals of a crash, a handler that restores it and
 * then lets the signal do what it does by default. ^C, ^\ and ^Z stay the terminal's own
 * keys.
 *
 * Interface: tty_open; poll(2) the descriptor it returns and ask tty_event what came;
 * tty_close. One terminal a program: standard input and output.
 */
#ifndef TTY_H
#define TTY_H

#include <stdbool.h>

/* What signals have told. */
enum tty_event {
    TTY_NONE,    /* no more events */
    TTY_RESIZED, /* tty_columns may have changed */
    TTY_STOP,    /* ^Z: call tty_stop when the screen is in order */
    TTY_RESUMED  /* raw mode is on again, the screen may hold anything */
};

/* Are standard input and output a terminal that can do more than print? */
bool tty_capable(void);

/* Starts raw mode. Returns a descriptor, readable when there are events; -1 and errno. */
int tty_open(void);

/* Ends raw mode, if that has not been done yet. */
void tty_close(void);

/* Returns the oldest event not returned yet. */
enum tty_event tty_event(void);

/* Ends raw mode, stops the program as ^Z does, returns when it runs again. */
void tty_stop(void);

/* Returns the width of the screen, 0 if it is not known. */
int tty_columns(void);

#endif
