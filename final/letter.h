/*
 * letter - what a user calls one character, and how wide it is
 *
 * A letter is a code point and all that belongs to it: accents and other marks, the parts
 * of an emoji. Backspace takes a whole one, and a long text is cut between two of them.
 * Any bytes will do: one that is not valid UTF-8 is a letter of its own.
 *
 * Pure functions, but wcwidth(3) has to know what a mark is: call setlocale first.
 *
 * It leaves out: the finer rules of Unicode (UAX #29). Those here are the few that matter
 * for what people type.
 */
#ifndef LETTER_H
#define LETTER_H

#include <stddef.h>

/* Returns the offset where the letter that begins at `at`, before len, ends. */
size_t letter_after(const char *text, size_t len, size_t at);

/* Returns the offset where the letter that ends at `at`, which is not 0, begins. */
size_t letter_before(const char *text, size_t len, size_t at);

/*
 * Returns how many columns the letter at `at` takes at most: terminals differ in how they
 * show an emoji of several parts. A control character takes two: ^C.
 */
int letter_columns(const char *text, size_t len, size_t at);

/*
 * Returns how many bytes at the front are whole letters and at most `max`. If the first
 * letter is longer than that, it is cut, between code points if possible: never 0, if
 * neither len nor max is.
 */
size_t letter_fit(const char *text, size_t len, size_t max);

#endif
