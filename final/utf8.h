/*
 * utf8 - what bytes from strangers mean as UTF-8, and how to show them safely.
 *
 * Pure functions: no locale, no state, no heap. The server's log and the client's screen
 * use them, so that a message can neither forge a log line nor give orders to a terminal.
 *
 * Interface: utf8_decode looks at one character, utf8_printable says whether it may be
 * shown as it is, utf8_visible makes the visible form of a whole piece of text.
 */
#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    UTF8_MAX = 4,        /* the longest character, in bytes (RFC 3629) */
    UTF8_VISIBLE_MAX = 4 /* the longest visible form of one byte: \xNN */
};

enum { UTF8_INVALID = -1, UTF8_INCOMPLETE = 0 };

/*
 * Looks at the first character of `len` bytes. Returns how many bytes it takes (1 to 4)
 * and stores its code point; or UTF8_INCOMPLETE if the bytes end in the middle of a
 * character that may still become valid (also if len is 0); or UTF8_INVALID if no
 * character begins here: a stray byte, an overlong form, a surrogate, a value above
 * U+10FFFF. After UTF8_INVALID go on with the next byte. `*point` is set only when a
 * character was found.
 */
int utf8_decode(const char *bytes, size_t len, uint32_t *point);

/*
 * False for what must not reach a log or a terminal raw: the controls C0, DEL and C1; the
 * line and paragraph separators U+2028 and U+2029; the directional embeddings, overrides
 * and isolates U+202A-202E and U+2066-2069, which reorder the text around them; the byte
 * order mark U+FEFF. True for every other code point, assigned or not. Joiners and the
 * plain directional marks U+200E, U+200F and U+061C are true: emoji, Hebrew and Arabic
 * need them.
 */
bool utf8_printable(uint32_t point);

/*
 * Writes the visible form of `len` bytes to `out`, which has room for
 * UTF8_VISIBLE_MAX * len bytes, and returns how many it wrote (no terminating NUL).
 * Printable characters stay as they are; every byte of anything else, a cut character at
 * the end included, becomes \xNN with lower-case digits. A backslash stays as it is: the
 * form is for eyes, not for decoding.
 */
size_t utf8_visible(char *out, const char *bytes, size_t len);

#endif
