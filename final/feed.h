/*
 * feed - one stream of bytes that many readers follow, each at its own pace
 *
 * What everybody is to receive is written once, at the end of the feed. Each reader is a
 * cursor: the place up to which it has everything. The feed is kept in chunks. A chunk
 * stays while a cursor stands in it or before it, since whoever stands there still needs
 * it. So memory follows the slowest reader, once for all of them, and readers at the end
 * cost nothing.
 *
 * Interface: feed_open(); feed_reserve() and feed_append() write; cursor_open() begins at
 * the end, since nobody gets what was sent before they came; cursor_peek(), sendmsg(2)
 * and cursor_advance() read; feed_laggard() finds who lags. Each of them takes the same
 * time however many cursors there are. No sockets, no clients: see chatsrv.c.
 */
#ifndef FEED_H
#define FEED_H

#include "list.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { FEED_CHUNK = 64 * 1024 }; /* bytes: what one turn usually brings fits in two */
enum { FEED_PIECES = 2 };        /* how many chunks a reader is shown at a time */

struct feed_chunk;

struct feed {
    struct feed_chunk *first; /* the oldest that is still needed */
    struct feed_chunk *last;  /* where the next byte goes */
    struct feed_chunk *spare; /* an unused one, or NULL */
};

struct feed_cursor {
    struct feed_chunk *chunk;
    size_t offset;             /* in bytes from the chunk's start */
    struct list_node in_chunk; /* among the cursors that stand in the same chunk */
};

/* Makes an empty feed. Returns 0; -1 with errno ENOMEM. */
int feed_open(struct feed *feed);

/* Releases the feed; all its cursors must be closed. */
void feed_close(struct feed *feed);

/* Makes room for len more bytes (at most FEED_CHUNK). Returns 0; -1 with errno ENOMEM. */
int feed_reserve(struct feed *feed, size_t len);

/* Writes bytes for which feed_reserve() has made room: it cannot fail. */
void feed_append(struct feed *feed, const char *bytes, size_t len);

/* Returns how many bytes have been written since feed_open(). */
uint64_t feed_end(const struct feed *feed);

/*
 * Returns a cursor that is more than lag_max bytes behind the end, NULL if there is none.
 * Only whole chunks count, so a cursor is found at the latest when it lags by lag_max +
 * FEED_CHUNK bytes.
 */
struct feed_cursor *feed_laggard(const struct feed *feed, uint64_t lag_max);

/* Puts a cursor at the end of the feed. It must not be moved in memory until closed. */
void cursor_open(struct feed *feed, struct feed_cursor *cursor);

void cursor_close(struct feed *feed, struct feed_cursor *cursor);

/* Returns where the cursor is, in bytes since feed_open(): feed_end() if it has all. */
uint64_t cursor_position(const struct feed_cursor *cursor);

/*
 * Sets pieces to what follows the cursor, but nothing from position `until` on, and
 * returns how many bytes that is: 0 only if the cursor is at the end or at `until`. A
 * piece that is not needed is empty; the first one comes first. They stay valid until the
 * cursor moves on.
 */
size_t cursor_peek(const struct feed_cursor *cursor, uint64_t until,
                   struct iovec pieces[FEED_PIECES]);

/* Moves the cursor over the first len of the bytes that cursor_peek() showed. */
void cursor_advance(struct feed *feed, struct feed_cursor *cursor, size_t len);

#endif
