/*
 * lines_test.c - final/lines.c: however a stream is cut, the messages are the same
 *
 * The expected messages come from a splitter that sees the whole stream and is written
 * from the protocol's sentences, not from lines.c.
 */
#include "../../final/lines.h"
#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { STREAM_MAX = 8192, MESSAGES_MAX = STREAM_MAX + 1 };

struct messages {
    size_t count, bytes;
    size_t len[MESSAGES_MAX];
    char text[STREAM_MAX];
};

static void messages_add(struct messages *to, const char *bytes, size_t len)
{
    memcpy(to->text + to->bytes, bytes, len);
    to->bytes += len;
    to->len[to->count++] = len;
}

static bool messages_equal(const struct messages *a, const struct messages *b)
{
    return a->count == b->count && a->bytes == b->bytes &&
           memcmp(a->len, b->len, a->count * sizeof a->len[0]) == 0 &&
           memcmp(a->text, b->text, a->bytes) == 0;
}

/* Every line, in pieces of MESSAGE_MAX; the last line counts if it has any bytes. */
static void split_whole(const char *stream, size_t len, struct messages *to)
{
    to->count = to->bytes = 0;
    for (size_t at = 0; at < len;) {
        size_t end = at;
        while (end < len && stream[end] != '\n')
            end++;
        while (end - at > MESSAGE_MAX) {
            messages_add(to, stream + at, MESSAGE_MAX);
            at += MESSAGE_MAX;
        }
        if (end < len || end > at)
            messages_add(to, stream + at, end - at);
        at = end + 1;
    }
}

/* Each read is put into memory of just its size: a sanitizer sees any step beyond it. */
static void feed_read(struct lines *lines, const char *bytes, size_t len,
                      struct messages *to)
{
    char *copy = malloc(len > 0 ? len : 1);
    struct slice input = {copy, len}, message;

    memcpy(copy, bytes, len);
    while (lines_next(lines, &input, &message) > 0) {
        CHECK(message.len <= MESSAGE_MAX);
        messages_add(to, message.bytes, message.len);
    }
    CHECK(input.len == 0);
    CHECK((lines->begun != NULL) == (lines->len > 0)); /* no memory that is not needed */
    free(copy);
}

static void finish(struct lines *lines, struct messages *to)
{
    struct slice message;

    if (lines_end(lines, &message))
        messages_add(to, message.bytes, message.len);
    CHECK(!lines_end(lines, &message));
    lines_close(lines);
}

static struct messages want, got;

/* In reads of the same size. */
static void check_pieces(const char *stream, size_t len, size_t piece)
{
    struct lines lines = {NULL, 0};

    got.count = got.bytes = 0;
    for (size_t at = 0; at < len; at += piece)
        feed_read(&lines, stream + at, piece < len - at ? piece : len - at, &got);
    finish(&lines, &got);
    CHECK(messages_equal(&got, &want));
}

/* In two reads, cut at every place. */
static void check_cuts(const char *stream, size_t len)
{
    for (size_t cut = 0; cut <= len; cut++) {
        struct lines lines = {NULL, 0};
        got.count = got.bytes = 0;
        feed_read(&lines, stream, cut, &got);
        feed_read(&lines, stream + cut, len - cut, &got);
        finish(&lines, &got);
        CHECK(messages_equal(&got, &want));
    }
}

static void check_stream(const char *stream, size_t len)
{
    split_whole(stream, len, &want);
    for (size_t piece = 1; piece <= 7; piece++)
        check_pieces(stream, len, piece);
    for (size_t piece = MESSAGE_MAX - 2; piece <= MESSAGE_MAX + 2; piece++)
        check_pieces(stream, len, piece);
    check_pieces(stream, len, len + 1);
    check_cuts(stream, len);
}

/* Lines around the limit and its multiples, with a newline and without. */
static void check_limit(void)
{
    static const size_t lens[] = {0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 3072};
    char stream[STREAM_MAX];

    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        memset(stream, 'x', lens[i]);
        check_stream(stream, lens[i]);
        memcpy(stream + lens[i], "\nnext\n", 6);
        check_stream(stream, lens[i] + 1);
        check_stream(stream, lens[i] + 6);
    }
    split_whole(stream, 3072 + 1, &want); /* the reference itself, checked once by hand */
    CHECK(want.count == 3 && want.len[0] == 1024 && want.len[2] == 1024);
}

/* A piece of a long line comes out with the byte that follows it, and not before. */
static void check_promptness(void)
{
    struct lines lines = {NULL, 0};
    char piece[MESSAGE_MAX + 1];
    struct slice input = {piece, MESSAGE_MAX}, message;

    memset(piece, 'x', sizeof piece);
    CHECK(lines_next(&lines, &input, &message) == 0);
    input = (struct slice){piece, 1};
    CHECK(lines_next(&lines, &input, &message) == 1 && message.len == MESSAGE_MAX);
    CHECK(lines_next(&lines, &input, &message) == 0 && lines.len == 1);
    lines_close(&lines);
}

/* Any bytes: NUL, invalid UTF-8, cut characters; newlines may be frequent or rare. */
static void check_random(unsigned seed)
{
    char stream[STREAM_MAX];
    size_t len;

    srand(seed);
    len = (size_t)rand() % 5000;
    for (size_t i = 0; i < len; i++)
        stream[i] = rand() % (seed % 2 ? 900 : 9) ? (char)rand() : '\n';
    split_whole(stream, len, &want);
    for (int times = 0; times < 20; times++) {
        struct lines lines = {NULL, 0};
        size_t reach = (size_t)rand() % 3000 + 1;
        got.count = got.bytes = 0;
        for (size_t at = 0, n; at < len; at += n) {
            n = (size_t)rand() % reach + 1;
            n = n < len - at ? n : len - at;
            feed_read(&lines, stream + at, n, &got);
        }
        finish(&lines, &got);
        CHECK(messages_equal(&got, &want));
    }
}

/* Taken in portions of at most `max` messages, the stream gives the same messages. */
static void check_fit(unsigned seed, size_t max)
{
    static char stream[STREAM_MAX];
    struct lines lines = {NULL, 0};
    size_t len, before;

    srand(seed);
    len = (size_t)rand() % STREAM_MAX;
    for (size_t i = 0; i < len; i++)
        stream[i] = rand() % (seed % 2 ? 2000 : 20) ? 'x' : '\n';
    split_whole(stream, len, &want);
    got.count = got.bytes = 0;
    for (size_t at = 0, n; at < len; at += n) {
        size_t shown = (size_t)rand() % (len - at) + 1;
        n = lines_fit(&lines, stream + at, shown, max);
        CHECK(n >= 1 && n <= shown);
        before = got.count;
        feed_read(&lines, stream + at, n, &got);
        CHECK(got.count - before == max || (n == shown && got.count - before < max));
    }
    finish(&lines, &got);
    CHECK(messages_equal(&got, &want));
}

int main(void)
{
    check_limit();
    check_stream("\xd0\xbf\xd1\x80\0\n\n\xff\n", 9);
    check_promptness();
    for (unsigned seed = 1; seed <= 100; seed++)
        check_random(seed);
    for (unsigned seed = 1; seed <= 100; seed++)
        check_fit(seed, seed % 7 + 1);
    return checks_end();
}
