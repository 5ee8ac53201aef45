/*
 * paste - follows the marks that a terminal puts around pasted text
 *
 * In bracketed paste mode, what is pasted comes between ESC[200~ and ESC[201~; only the
 * marks begin with an ESC. All zero means: typed, and no mark has begun.
 */
#ifndef PASTE_H
#define PASTE_H

#include <stdbool.h>
#include <stddef.h>

enum { PASTE_MARK_LEN = 6 }; /* bytes */

struct paste {
    bool pasting;   /* the last mark was that of a beginning, */
    size_t matched; /* and these are the bytes so far of the next one */
};

void paste_follow(struct paste *paste, char byte);

/*
 * What stands between two places in the keys is lost. Writes the bytes that make up for
 * the marks in it, and returns how many. If anything is lost, the first place must not be
 * within a mark.
 */
size_t paste_bridge(struct paste from, struct paste to, char bytes[2 * PASTE_MARK_LEN]);

#endif
