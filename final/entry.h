/*
 * entry - what stands in a room's stream, put together from the items of XREAD's reply
 *
 * An entry has an ID, which Redis gives it, and three fields: o, its origin, 128 random
 * bits in hex that stand for one run of one server; n, which counts that origin's
 * entries; and d, whole messages, each with its newline, or nothing.
 *
 * Interface: entry_take() gets every item of the reply. Pure: no sockets, no heap. A
 * trail remembers how long the newest entries are, to know how many of them hold
 * TRAIL_BYTES.
 */
#ifndef ENTRY_H
#define ENTRY_H

#include "origins.h" /* ORIGIN_LEN */
#include "resp.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENTRY_MAX = RESP_BULK_MAX }; /* bytes of d */
enum { ENTRY_ID_MAX = 41 };         /* two numbers of 64 bits and a dash */

struct entry {
    char id[ENTRY_ID_MAX];
    size_t id_len;
    bool ours; /* it has the form above, and the following: */
    char origin[ORIGIN_LEN];
    uint64_t n;
    struct slice messages; /* valid until the next item */
    size_t len;            /* all its values, in bytes; at most UINT32_MAX */
    int64_t count, at;     /* names and values: how many there are, and have been read */
};

/* Takes the next item of XREAD's reply. Returns whether an entry is complete with it. */
bool entry_take(struct entry *entry, const struct resp_item *item);

enum { TRAIL_BYTES = 64 * 1024 * 1024, TRAIL_MAX = 100 * 1000 };

struct trail {
    uint32_t *lens; /* a ring of TRAIL_MAX, the oldest one at first */
    size_t first, count;
    uint64_t sum; /* beyond size_t where that has 32 bits: a length may */
    bool full;    /* there were more, but they do not count any more */
};

/* Makes an empty one; the caller frees lens. Returns 0; -1 with errno ENOMEM. */
int trail_open(struct trail *trail);

void trail_add(struct trail *trail, size_t len);

/* Returns how many of the newest entries hold TRAIL_BYTES; at most, and by default,
 * TRAIL_MAX. */
size_t trail_count(const struct trail *trail);

#endif
