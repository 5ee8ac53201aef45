/*
 * process - what the server asks of the system for itself: descriptors and signals
 *
 * Interface: process_open() comes before anything else is opened. All functions but
 * process_signal() are for start-up only: an error ends the program with one line.
 */
#ifndef PROCESS_H
#define PROCESS_H

#include <stddef.h>

enum process_signal {
    PROCESS_RUN,  /* no signal has come */
    PROCESS_STOP, /* one has: end in order */
    PROCESS_END   /* a second one has: end at once */
};

/*
 * Opens those of standard input, output and error that are closed, since otherwise the
 * next descriptor takes the place, and the log, say, is sent to a client. Ignores the
 * signals that tell no more than a failing call does.
 */
void process_open(void);

/*
 * Raises the limit of descriptors and returns how many clients there may be: as many as
 * were asked for (SIZE_MAX: any number) and descriptors allow. Says so if these are less.
 */
size_t process_clients(size_t asked);

/*
 * Catches SIGINT, SIGTERM and SIGHUP, the last one unless it was ignored, as nohup(1)
 * does it. Returns a descriptor that is readable when one of them has come, or SIGCONT.
 */
int process_signals(void);

/*
 * What the signals so far ask for. SIGHUP is never the second one: when a terminal
 * closes, kernel and shell send one each. SIGCONT asks for nothing.
 */
enum process_signal process_signal(void);

#endif
