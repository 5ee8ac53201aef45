/*
 * show - what others say, made fit for a terminal
 *
 * Lines from strangers are shown with their control bytes made visible (utf8.h), so that
 * nobody gives orders to the terminal. Pure: bytes in, bytes out.
 */
#ifndef SHOW_H
#define SHOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/*
 * Writes the whole lines at the beginning of `len` bytes to a terminal, `stamp` before
 * each, and returns how many bytes these were: from 0, if the rest of a line is still to
 * come, to len. An unfinished line is written too if `all`, or if it is longer than any
 * message with its sender; then it is cut between two letters (letter.h).
 *
 * With `colour`, each sender's address has a colour of its own: the same for everybody
 * who looks, and readable on light and on dark.
 */
size_t show_lines(const char *bytes, size_t len, bool all, bool colour, const char *stamp,
                  FILE *out);

#endif
