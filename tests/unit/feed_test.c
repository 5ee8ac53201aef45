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

/* Usually a message, sometimes a byte or two, sometimes a whole chunk. */
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
    /* In two parts, as the server does. */
    feed_append(feed, stream + stream_len, len / 3);
    feed_append(feed, stream + stream_len + len / 3, len - len / 3);
    stream_len += len;
    CHECK(feed_end(feed) == stream_len);
}

/* How many bytes a reader at `at` should see: the rest of its chunk, and the next one. */
static size_t shown_len(size_t at, size_t until)
{
    size_t edge = (at / FEED_CHUNK + FEED_PIECES) * FEED_CHUNK;
    return (until < edge ? until : edge) - at;
}

/* Takes what sendmsg(2) might: all of what it is shown, or a part. */
static void advance(struct feed *feed, struct reader *reader)
{
    struct iovec pieces[FEED_PIECES];
    size_t left = stream_len - reader->at;
    size_t until = rand() % 4 ? SIZE_MAX : reader->at + (size_t)rand() % (left + 1);
    size_t len = cursor_peek(&reader->cursor, until, pieces), first = pieces[0].iov_len;

    CHECK(cursor_position(&reader->cursor) == reader->at);
    CHECK(len == shown_len(reader->at, until < stream_len ? until : stream_len));
    CHECK(len == first + pieces[1].iov_len);
    CHECK(first > 0 || len == 0);
    CHECK(first == 0 || memcmp(pieces[0].iov_base, stream + reader->at, first) == 0);
    CHECK(len == first ||
          memcmp(pieces[1].iov_base, stream + reader->at + first, len - first) == 0);
    if (len > 0 && rand() % 2)
        len = rand() % 8 ? (size_t)rand() % len : first;
    cursor_advance(feed, &reader->cursor, len);
    reader->at += len;
    CHECK(cursor_position(&reader->cursor) == reader->at);
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

/* A laggard must be named when somebody lags too much, and it must be one. */
static void check_laggard(const struct feed *feed, const struct reader *readers)
{
    size_t lag_max = (size_t)rand() % (8 * FEED_CHUNK), most = 0, lag = 0;
    const struct feed_cursor *laggard = feed_laggard(feed, lag_max);

    for (int i = 0; i < CURSORS; i++) {
        if (!readers[i].open)
            continue;
        if (stream_len - readers[i].at > most)
            most = stream_len - readers[i].at;
        if (laggard == &readers[i].cursor)
            lag = stream_len - readers[i].at;
    }
    if (laggard != NULL)
        CHECK(lag > lag_max);
    else
        CHECK(most <= lag_max + FEED_CHUNK);
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
        check_laggard(&feed, readers);
    }
    for (int i = 0; i < CURSORS; i++)
        if (readers[i].open)
            toggle(&feed, &readers[i]);
    feed_close(&feed); /* AddressSanitizer says whether a chunk was leaked */
}

/* With a reader that keeps up, the feed stays in its first two chunks. */
static void check_steady(void)
{
    static const char bytes[FEED_CHUNK];
    struct feed_cursor cursor;
    struct feed feed;
    const void *places[2] = {NULL, NULL};
    struct iovec pieces[FEED_PIECES];
    int other = 0;

    CHECK(feed_open(&feed) == 0);
    cursor_open(&feed, &cursor);
    for (int turn = 0; turn < 100; turn++) {
        CHECK(feed_reserve(&feed, sizeof bytes) == 0);
        feed_append(&feed, bytes, sizeof bytes);
        CHECK(cursor_peek(&cursor, UINT64_MAX, pieces) == sizeof bytes);
        cursor_advance(&feed, &cursor, sizeof bytes);
        other += turn >= 2 && pieces[0].iov_base != places[turn % 2];
        places[turn % 2] = pieces[0].iov_base;
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
