/*
 * resp_test.c - final/resp.c: however replies are cut, their items are the same
 *
 * Random replies are made as trees. Each node is written twice: as bytes, following the
 * protocol's description, and as a line of text, the item that has to come out.
 */
#include "../../final/resp.h"
#include "check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { STREAM_MAX = 4 << 20 };

struct text {
    char bytes[STREAM_MAX];
    size_t len;
};

static struct text stream, want, got;

static void text_add(struct text *to, const char *bytes, size_t len)
{
    if (len > sizeof to->bytes - to->len)
        abort();
    memcpy(to->bytes + to->len, bytes, len);
    to->len += len;
}

static void text_number(struct text *to, const char *before, int64_t number,
                        const char *after)
{
    char line[40];

    text_add(to, before, strlen(before));
    text_add(to, line, (size_t)snprintf(line, sizeof line, "%" PRId64, number));
    text_add(to, after, strlen(after));
}

/* ---- The model: what is sent, and what has to be read ---- */

/* An item's line in want or got: its kind, depth and number, then its text. */
static void item_add(struct text *to, char kind, int depth, int64_t number,
                     struct slice text)
{
    text_add(to, &kind, 1);
    text_number(to, " ", depth, "");
    text_number(to, " ", number, " ");
    text_number(to, "", (int64_t)text.len, " ");
    if (text.len > 0)
        text_add(to, text.bytes, text.len);
}

static int below(int n)
{
    return rand() % n;
}

static struct slice text_random(size_t len, bool line)
{
    static char bytes[RESP_BULK_MAX + 10];

    for (size_t i = 0; i < len; i++)
        bytes[i] = line ? (char)(' ' + below(90)) : "\r\n$*\0x\xff-"[below(8)];
    return (struct slice){bytes, len};
}

static const struct slice nothing = {NULL, 0};

static void bulk_make(int depth, size_t len)
{
    struct slice text = text_random(len, false);

    text_number(&stream, "$", (int64_t)len, "\r\n");
    text_add(&stream, text.bytes, len);
    text_add(&stream, "\r\n", 2);
    if (len > RESP_BULK_MAX)
        item_add(&want, 'L', depth, (int64_t)len, nothing);
    else
        item_add(&want, '$', depth, 0, text);
}

static void line_make(char kind, int depth, size_t len)
{
    struct slice text = text_random(len, true);

    text_add(&stream, &kind, 1);
    text_add(&stream, text.bytes, len);
    text_add(&stream, "\r\n", 2);
    item_add(&want, kind, depth, 0, text);
}

static void number_make(int depth)
{
    int64_t number = below(2) ? below(100) - 50 : below(2) ? INT64_MAX : -INT64_MAX;

    text_number(&stream, ":", number, "\r\n");
    item_add(&want, ':', depth, number, nothing);
}

static void reply_make(int depth)
{
    static const size_t lens[] = {0, 1, 2, 3, 40, 1000};

    switch (below(depth < RESP_DEPTH_MAX ? 9 : 6)) {
    case 0:
        text_add(&stream, below(2) ? "$-1\r\n" : "*-1\r\n", 5);
        item_add(&want, '0', depth, 0, nothing);
        break;
    case 1:
        number_make(depth);
        break;
    case 2:
        line_make(below(2) ? '+' : '-', depth, lens[below(6)]);
        break;
    case 3:
    case 4:
    case 5:
        bulk_make(depth, lens[below(6)]);
        break;
    default: {
        int count = below(5);
        text_number(&stream, "*", count, "\r\n");
        item_add(&want, '*', depth, count, nothing);
        while (count-- > 0)
            reply_make(depth + 1);
    }
    }
    if (depth == 0)
        text_add(&want, ".", 1);
}

/* ---- What is read ---- */

/* Each read is put into memory of just its size: a sanitizer sees any step beyond it. */
static int read_all(struct resp *resp, const char *bytes, size_t len)
{
    static const char kinds[] = {'+', '-', ':', '$', 'L', '*', '0'};
    char *copy = malloc(len > 0 ? len : 1);
    struct slice input = {copy, len};
    struct resp_item item;
    int result;

    if (len > 0)
        memcpy(copy, bytes, len);
    while ((result = resp_next(resp, &input, &item)) > 0) {
        int64_t number = item.type == RESP_NIL ? 0 : item.number;
        item_add(&got, kinds[item.type], item.depth, number, item.text);
        if (item.last)
            text_add(&got, ".", 1);
    }
    CHECK(result < 0 || input.len == 0);
    free(copy);
    return result;
}

/* In pieces of random sizes up to reach. */
static void check_pieces(size_t reach)
{
    struct resp resp = {.kept = NULL};

    got.len = 0;
    for (size_t at = 0, n; at < stream.len; at += n) {
        n = (size_t)rand() % reach + 1;
        n = n < stream.len - at ? n : stream.len - at;
        CHECK(read_all(&resp, stream.bytes + at, n) == 0);
    }
    CHECK(resp_next(&resp, &(struct slice){"", 0}, &(struct resp_item){0}) == 0);
    CHECK(resp.kept == NULL && resp.depth == 0); /* no memory that is not needed */
    CHECK(got.len == want.len && memcmp(got.bytes, want.bytes, got.len) == 0);
    resp_close(&resp);
}

static void check_stream(void)
{
    check_pieces(1);
    check_pieces(3);
    check_pieces(50);
    check_pieces(stream.len + 1);
}

static void check_random(unsigned seed)
{
    srand(seed);
    stream.len = want.len = 0;
    for (int replies = 0; replies < 30 && stream.len < 50000; replies++)
        reply_make(0);
    check_stream();
}

/* In two pieces, cut at every place. */
static void check_cuts(void)
{
    for (size_t cut = 0; cut <= stream.len; cut++) {
        struct resp resp = {.kept = NULL};
        got.len = 0;
        CHECK(read_all(&resp, stream.bytes, cut) == 0);
        CHECK(read_all(&resp, stream.bytes + cut, stream.len - cut) == 0);
        CHECK(got.len == want.len && memcmp(got.bytes, want.bytes, got.len) == 0);
        resp_close(&resp);
    }
}

/* Strings at the limit and beyond it, and what follows them. */
static void check_long(void)
{
    for (size_t len = RESP_BULK_MAX - 1; len <= RESP_BULK_MAX + 2; len++) {
        stream.len = want.len = 0;
        bulk_make(0, len);
        text_add(&want, ".", 1);
        line_make('+', 0, 2);
        text_add(&want, ".", 1);
        check_pieces(1);
        check_pieces(5000);
        check_pieces(stream.len);
    }
}

/* A string of a terabyte needs no memory. */
static void check_endless(void)
{
    static const char head[] = "$1099511627776\r\n";
    struct resp resp = {.kept = NULL};

    CHECK(read_all(&resp, head, sizeof head - 1) == 0);
    CHECK(read_all(&resp, stream.bytes, 100000) == 0 && resp.kept == NULL);
    resp_close(&resp);
}

/*
 * There is no memory for a string. Where the limit of memory is not kept, or has been
 * taken long ago by AddressSanitizer, this cannot be seen.
 */
static void check_no_memory(void)
{
    static const char bytes[] = "$262144\r\nbegins";
    struct slice input = {bytes, sizeof bytes - 1};
    struct resp resp = {.kept = NULL};
    struct rlimit before, none;
    void *volatile memory;

#if defined(__SANITIZE_ADDRESS__)
    return;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    return;
#endif
#endif
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    none = before;
    none.rlim_cur = 0;
    CHECK(setrlimit(RLIMIT_AS, &none) == 0);
    memory = malloc(RESP_BULK_MAX);
    if (memory == NULL)
        CHECK_FAILS(resp_next(&resp, &input, &(struct resp_item){0}), ENOMEM);
    free(memory);
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
    resp_close(&resp);
}

/* How resp_next() ends with these bytes, whole and byte by byte. */
static void check_result(const char *bytes, size_t len, int result)
{
    struct resp resp = {.kept = NULL};
    int last = 0;

    errno = 0;
    CHECK(read_all(&resp, bytes, len) == result);
    CHECK(result == 0 || errno == EPROTO);
    resp_close(&resp);
    for (size_t i = 0; i < len && last == 0; i++)
        last = read_all(&resp, bytes + i, 1);
    CHECK(last == result);
    resp_close(&resp);
    got.len = 0;
}

static void check_malformed(void)
{
    static const char *const wrong[] = {
        "HTTP/1.1 200 OK\r\n",
        "x",
        "\r\n",
        "+\n",
        "+OK\n",
        "+O\rK\r\n",
        ":\r\n",
        ":-\r\n",
        ":1x\r\n",
        ": 1\r\n",
        ":--1\r\n",
        ":9223372036854775808\r\n",
        "$-2\r\n",
        "*-2\r\n",
        "$9223372036854775807\r\n",
        "*2147483648\r\n",
        "$1\r\nxyz",
        "$1\r\nx\rz",
        "$0\r\n\n\r",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        "$x\r\n",
    };
    static const char *const right[] = {
        "*2147483647\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n",
        ":9223372036854775807\r\n:-0\r\n+\r\n-\r\n",
    };

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        check_result(wrong[i], strlen(wrong[i]), -1);
    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++)
        check_result(right[i], strlen(right[i]), 0);
    check_result(":\0\r\n", 4, -1);
}

/* A line may be RESP_LINE_MAX long and no longer, even while its end has not come. */
static void check_line(void)
{
    char line[RESP_LINE_MAX + 2];

    memset(line, 'x', sizeof line);
    line[0] = '-';
    check_result(line, RESP_LINE_MAX - 1, 0);
    check_result(line, RESP_LINE_MAX, -1);
    memcpy(line + RESP_LINE_MAX - 2, "\r\n", 2);
    check_result(line, RESP_LINE_MAX, 0);
    line[RESP_LINE_MAX - 2] = 'x';
    memcpy(line + RESP_LINE_MAX - 1, "\r\n", 2);
    check_result(line, RESP_LINE_MAX + 1, -1);
}

/* ---- Commands ---- */

static void check_command(void)
{
    static const char expected[] = "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\0\r\n\r\n";
    const struct slice words[] = {{"SET", 3}, {NULL, 0}, {"a\0\r\n", 4}};
    enum { LEN = sizeof expected - 1 };
    enum { HEAD_MAX = 24, LAST_HEAD = 4 }; /* bytes: for any number, and here */
    char *exact;

    for (size_t room = 0; room < 200; room++) {
        size_t len;
        exact = malloc(room + 1);
        len = resp_command(exact, room, words, 3);
        CHECK(len == 0 || (len == LEN && memcmp(exact, expected, LEN) == 0));
        CHECK_EQUAL(len > 0, room >= LEN - LAST_HEAD + HEAD_MAX);
        free(exact);
    }
}

int main(void)
{
    check_no_memory(); /* while none is at hand that was used before */
    for (unsigned seed = 1; seed <= 200; seed++)
        check_random(seed);
    srand(1);
    stream.len = want.len = 0;
    while (stream.len < 3000)
        reply_make(0);
    check_cuts();
    check_long();
    check_endless();
    check_malformed();
    check_line();
    check_command();
    return checks_end();
}
