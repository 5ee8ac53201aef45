/*
 * log - one line an event on standard output, which can never hold up the server
 *
 * Lines collect in a buffer and leave with log_flush(), once per round of the event loop.
 * Is nobody reading them, the buffer fills; then whole lines are dropped, and once there
 * is room again a line says how many. Text from the network is shown in its visible form
 * (utf8.h), so that nobody can forge a line.
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>
#include <stddef.h>

/* Logs a line of the server's own words, in printf(3)'s format, without the newline. */
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
void log_event(const char *format, ...);

/* Logs a message and who sent it. */
void log_message(const char *sender, const char *text, size_t len);

/* Writes what can be written without blocking. Returns whether some is left. */
bool log_flush(void);

#endif
