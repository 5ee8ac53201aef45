/*
 * feed_test.c - final/feed.c against a plain model: one long array, and a place in it for
 * each cursor. Random appends, reads, opens and closes; run it with AddressSanitizer too.
 */
#include "../../final/feed.h"
#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { CURSORS = 12, STREAM_MAX = 64 * FEED_CHUNK };

static char stream[STREAM_MAX]; /* all that was ever appended */
static size_t stream_len;

struct reader {
    bool open;
    struct feed_cursor cursor;
    size_t at; /* where it should be in the stream */
};

/* Sometimes a byte, mostly a message, now and then a whole chunk. */
static size_t random_len(void)
{
    switch (rand() % 8) {
    case 0:
        return (size_t)rand() % 3;
    case 1:
        return FEED_CHUNK - (size_t)rand() % 2;
    default:
        return (size_t)rand() % 3000;
    }
}

static void append(struct feed *feed)
{
    size_t len = random_len();

    if (stream_len + len > STREAM_MAX)
        return;
    for (size_t i = 0; i < len; i++)
        stream[stream_len + i] = (char)rand();
    CHECK(feed_reserve(feed, len) == 0);
    feed_append(feed, stream + stream_len,
                len / 3); /* in two parts, as the server does */
    feed_append(feed, stream + stream_len + len / 3, len - len / 3);
    stream_len += len;
    CHECK(feed_end(feed) == stream_len);
}

/* Reads as send(2) does: all that is shown, or a part of it. */
static void advance(struct feed *feed, struct reader *reader)
{
    const char *bytes;
    size_t len = cursor_peek(feed, &reader->cursor, &bytes);

    CHECK(cursor_position(&reader->cursor) == reader->at);
    CHECK((len == 0) == (reader->at == stream_len));
    CHECK(len <= stream_len - reader->at);
    CHECK(memcmp(bytes, stream + reader->at, len) == 0);
    if (len > 0 && rand() % 2)
        len = (size_t)rand() % len;
    cursor_advance(&reader->cursor, len);
    reader->at += len;
}

static void toggle(struct feed *feed, struct reader *reader)
{
    if (reader->open) {
        cursor_close(feed, &reader->cursor);
    } else {
        cursor_open(feed, &reader->cursor);
        reader->at = stream_len; /* no history */
        CHECK(cursor_position(&reader->cursor) == stream_len);
    }
    reader->open = !reader->open;
}

static void check_random(unsigned seed)
{
    struct reader readers[CURSORS] = {{.open = false}};
    struct feed feed;

    srand(seed);
    stream_len = 0;
    CHECK(feed_open(&feed) == 0);
    for (int turn = 0; turn < 3000; turn++) {
        struct reader *reader = &readers[rand() % CURSORS];
        if (rand() % 4 == 0)
            append(&feed);
        if (rand() % 50 == 0)
            toggle(&feed, reader);
        if (reader->open)
            advance(&feed, reader);
    }
    for (int i = 0; i < CURSORS; i++)
        if (readers[i].open)
            toggle(&feed, &readers[i]);
    feed_close(&feed); /* AddressSanitizer tells whether a chunk is left */
}

/* With a reader that keeps up, the feed stays in its first two chunks. */
static void check_steady(void)
{
    static const char bytes[FEED_CHUNK];
    struct feed_cursor cursor;
    struct feed feed;
    const char *shown, *places[2] = {NULL, NULL};
    int other = 0;

    CHECK(feed_open(&feed) == 0);
    cursor_open(&feed, &cursor);
    for (int turn = 0; turn < 100; turn++) {
        CHECK(feed_reserve(&feed, sizeof bytes) == 0);
        feed_append(&feed, bytes, sizeof bytes);
        CHECK(cursor_peek(&feed, &cursor, &shown) == sizeof bytes);
        cursor_advance(&cursor, sizeof bytes);
        other += turn >= 2 && shown != places[turn % 2];
        places[turn % 2] = shown;
    }
    CHECK(other == 0);
    cursor_close(&feed, &cursor);
    feed_close(&feed);
}

int main(void)
{
    check_steady();
    for (unsigned seed = 1; seed <= 40; seed++)
        check_random(seed);
    return checks_end();
}
