/*
 * feed - see feed.h. Systems: any.
 */
#include "feed.h"

#include <stdlib.h>
#include <string.h>

struct feed_chunk {
    struct feed_chunk *next;
    size_t refs;    /* cursors in it, + 1 for a chunk before it, + 1 if it is the last */
    uint64_t start; /* the position of its first byte */
    size_t len;     /* the bytes written so far */
    char bytes[FEED_CHUNK];
};

int feed_open(struct feed *feed)
{
    *feed = (struct feed){NULL, NULL};
    if ((feed->last = malloc(sizeof *feed->last)) == NULL)
        return -1;
    feed->last->next = NULL;
    feed->last->refs = 1;
    feed->last->start = 0;
    feed->last->len = 0;
    return 0;
}

void feed_close(struct feed *feed)
{
    free(feed->last);
    free(feed->spare);
}

/* Gives up one reference. With the last, the chunk goes, and so does its own on the next. */
static void chunk_release(struct feed *feed, struct feed_chunk *chunk)
{
    while (chunk != NULL && --chunk->refs == 0) {
        struct feed_chunk *next = chunk->next;
        if (feed->spare == NULL)
            feed->spare = chunk; /* a steady stream then needs no malloc */
        else
            free(chunk);
        chunk = next;
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
    struct feed_chunk *full = feed->last, *chunk = feed->spare;

    chunk->next = NULL;
    chunk->refs = 2; /* the full one's, and for being the last */
    chunk->start = full->start + full->len;
    chunk->len = 0;
    full->next = chunk;
    feed->last = chunk;
    feed->spare = NULL;
    chunk_release(feed, full);
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

void cursor_open(struct feed *feed, struct feed_cursor *cursor)
{
    cursor->chunk = feed->last;
    cursor->offset = feed->last->len;
    cursor->chunk->refs++;
}

void cursor_close(struct feed *feed, struct feed_cursor *cursor)
{
    chunk_release(feed, cursor->chunk);
}

uint64_t cursor_position(const struct feed_cursor *cursor)
{
    return cursor->chunk->start + cursor->offset;
}

size_t cursor_peek(struct feed *feed, struct feed_cursor *cursor, const char **bytes)
{
    struct feed_chunk *chunk = cursor->chunk;

    if (cursor->offset == FEED_CHUNK && chunk->next != NULL) {
        cursor->chunk = chunk->next;
        cursor->offset = 0;
        cursor->chunk->refs++;
        chunk_release(feed, chunk);
    }
    *bytes = cursor->chunk->bytes + cursor->offset;
    return cursor->chunk->len - cursor->offset;
}

void cursor_advance(struct feed_cursor *cursor, size_t len)
{
    cursor->offset += len;
}
