/*
 * log - one line per event on standard output, which never holds up the server
 *
 * Lines collect in a buffer and leave with log_flush(), once per round of the event loop.
 * The buffer holds 256 KB. If it is full, whole lines are dropped until it is empty, and
 * the next line says how many: that happens if nobody reads the log, but also in a burst
 * that is over before the reader has had its turn, on a terminal above all, which takes
 * only a few KB at a time. A full disk is waited for in the same way. Text from the
 * network is shown in its visible form (utf8.h), so that nobody can forge a line.
 *
 * Nothing here waits, and no flag of a descriptor that others share is changed: a
 * terminal or pipe is opened a second time for that. What may still wait: a file on a
 * disk or network drive that does not answer, and a pipe that another program writes to
 * as well, where the system cannot open it again (macOS, the BSDs).
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>
#include <stddef.h>

/* Finds out what standard output is. Call it once, before the first line is flushed. */
void log_open(void);

/* Logs a line of the server's own words, in printf(3)'s format, without the newline. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
void log_event(const char *format, ...);

/*
 * Logs what happened to a connection, and why (NULL: nothing to say). Thousands may come
 * and go in a second, so this does without printf(3).
 */
void log_connection(const char *event, const char *endpoint, const char *reason);

/* Logs a message and who sent it. */
void log_message(const char *sender, const char *text, size_t len);

/*
 * Writes what can be written without waiting. Returns in how many milliseconds to call it
 * again, since some is left: 1, doubling to 100; -1: nothing is, or nobody will read it.
 */
int log_flush(void);

#endif
