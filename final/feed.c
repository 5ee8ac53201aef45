/*
 * feed - see feed.h. Systems: any.
 */
#include "feed.h"

#include <stdlib.h>
#include <string.h>

struct feed_chunk {
    struct feed_chunk *next;
    struct list_node cursors; /* those that stand in it */
    uint64_t start;           /* the position of its first byte */
    size_t len;               /* the bytes written so far; all of them if next is set */
    char bytes[FEED_CHUNK];
};

static void chunk_init(struct feed_chunk *chunk, uint64_t start)
{
    chunk->next = NULL;
    list_init(&chunk->cursors);
    chunk->start = start;
    chunk->len = 0;
}

int feed_open(struct feed *feed)
{
    *feed = (struct feed){NULL, NULL, NULL};
    if ((feed->last = malloc(sizeof *feed->last)) == NULL)
        return -1;
    chunk_init(feed->last, 0);
    feed->first = feed->last;
    return 0;
}

void feed_close(struct feed *feed)
{
    free(feed->last);
    free(feed->spare);
}

/* Releases the chunks that every cursor has behind it. */
static void feed_trim(struct feed *feed)
{
    while (feed->first != feed->last && list_empty(&feed->first->cursors)) {
        struct feed_chunk *chunk = feed->first;
        feed->first = chunk->next;
        if (feed->spare == NULL)
            feed->spare = chunk; /* a steady stream then needs no malloc */
        else
            free(chunk);
    }
}

int feed_reserve(struct feed *feed, size_t len)
{
    if (FEED_CHUNK - feed->last->len < len && feed->spare == NULL)
        feed->spare = malloc(sizeof *feed->spare);
    return FEED_CHUNK - feed->last->len < len && feed->spare == NULL ? -1 : 0;
}

/* Puts the spare chunk behind the last one, which is full. */
static void feed_extend(struct feed *feed)
{
    struct feed_chunk *full = feed->last;

    chunk_init(feed->spare, feed_end(feed));
    feed->last = full->next = feed->spare;
    feed->spare = NULL;
    feed_trim(feed);
}

void feed_append(struct feed *feed, const char *bytes, size_t len)
{
    size_t room = FEED_CHUNK - feed->last->len;
    size_t first = len < room ? len : room;

    memcpy(feed->last->bytes + feed->last->len, bytes, first);
    feed->last->len += first;
    if (first < len) {
        feed_extend(feed);
        memcpy(feed->last->bytes, bytes + first, len - first);
        feed->last->len = len - first;
    }
}

uint64_t feed_end(const struct feed *feed)
{
    return feed->last->start + feed->last->len;
}

/* Only the oldest chunk's cursors count: the others lag less. */
struct feed_cursor *feed_laggard(const struct feed *feed, uint64_t lag_max)
{
    const struct feed_chunk *oldest = feed->first;

    if (list_empty(&oldest->cursors) ||
        feed_end(feed) - (oldest->start + oldest->len) <= lag_max)
        return NULL;
    return LIST_OWNER(oldest->cursors.next, struct feed_cursor, in_chunk);
}

void cursor_open(struct feed *feed, struct feed_cursor *cursor)
{
    cursor->chunk = feed->last;
    cursor->offset = feed->last->len;
    list_append(&cursor->chunk->cursors, &cursor->in_chunk);
}

void cursor_close(struct feed *feed, struct feed_cursor *cursor)
{
    list_remove(&cursor->in_chunk);
    feed_trim(feed);
}

uint64_t cursor_position(const struct feed_cursor *cursor)
{
    return cursor->chunk->start + cursor->offset;
}

size_t cursor_peek(const struct feed_cursor *cursor, uint64_t until,
                   struct iovec pieces[FEED_PIECES])
{
    uint64_t left = until - cursor_position(cursor);
    struct feed_chunk *chunk = cursor->chunk;
    size_t offset = cursor->offset, len = 0;

    if (offset == FEED_CHUNK && chunk->next != NULL) {
        chunk = chunk->next;
        offset = 0;
    }
    for (int i = 0; i < FEED_PIECES; i++) {
        size_t here = chunk == NULL ? 0 : chunk->len - offset;
        if (here > left - len)
            here = (size_t)(left - len);
        pieces[i].iov_base = here == 0 ? NULL : chunk->bytes + offset;
        pieces[i].iov_len = here;
        len += here;
        chunk = chunk == NULL ? NULL : chunk->next;
        offset = 0;
    }
    return len;
}

void cursor_advance(struct feed *feed, struct feed_cursor *cursor, size_t len)
{
    cursor->offset += len;
    if (cursor->offset < FEED_CHUNK || cursor->chunk->next == NULL)
        return;
    list_remove(&cursor->in_chunk);
    while (cursor->offset >= FEED_CHUNK && cursor->chunk->next != NULL) {
        cursor->offset -= FEED_CHUNK;
        cursor->chunk = cursor->chunk->next;
    }
    list_append(&cursor->chunk->cursors, &cursor->in_chunk);
    feed_trim(feed);
}
