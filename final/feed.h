/*
 * feed - one stream of bytes that many readers follow, each at its own pace
 *
 * What everybody is to receive is written once, at the end of the feed. Each reader is a
 * cursor: a place in the feed up to which it has everything. The feed lives in chunks; a
 * chunk is held by the cursors in it and by the chunk before it (whoever stands there
 * will still need it), and is released with the last of these. So memory follows the
 * slowest reader, once for all, and costs nothing for readers that are at the end.
 *
 * Interface: feed_open(); feed_reserve() and feed_append() write; cursor_open() begins at
 * the end, since nobody gets what was sent before he came; cursor_peek(), send(2),
 * cursor_advance() read. No sockets, no clients: see chatsrv.c.
 */
#ifndef FEED_H
#define FEED_H

#include <stddef.h>
#include <stdint.h>

enum { FEED_CHUNK = 64 * 1024 }; /* bytes: one send(2) moves so many */

struct feed_chunk;

struct feed {
    struct feed_chunk *last;  /* where the next byte goes */
    struct feed_chunk *spare; /* an unused one, or NULL */
};

struct feed_cursor {
    struct feed_chunk *chunk;
    size_t offset; /* in bytes from the chunk's start */
};

/* Makes an empty feed. Returns 0; -1 with errno ENOMEM. */
int feed_open(struct feed *feed);

/* Releases the feed; all its cursors must be closed. */
void feed_close(struct feed *feed);

/* Makes sure of room for len more bytes (at most FEED_CHUNK). Returns 0; -1: ENOMEM. */
int feed_reserve(struct feed *feed, size_t len);

/* Writes bytes for which feed_reserve() has made room: it cannot fail. */
void feed_append(struct feed *feed, const char *bytes, size_t len);

/* How many bytes have been written since feed_open(). */
uint64_t feed_end(const struct feed *feed);

/* Puts a cursor at the end of the feed. */
void cursor_open(struct feed *feed, struct feed_cursor *cursor);

void cursor_close(struct feed *feed, struct feed_cursor *cursor);

/* Where the cursor stands, in bytes since feed_open(): feed_end() once it has all. */
uint64_t cursor_position(const struct feed_cursor *cursor);

/*
 * Sets bytes to what follows the cursor and returns how many there are in one piece;
 * 0 only at the end of the feed. They stay valid until the cursor moves on.
 */
size_t cursor_peek(struct feed *feed, struct feed_cursor *cursor, const char **bytes);

/* Moves the cursor over len of the bytes that cursor_peek() showed. */
void cursor_advance(struct feed_cursor *cursor, size_t len);

#endif
