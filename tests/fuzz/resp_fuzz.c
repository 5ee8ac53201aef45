/*
 * resp_fuzz - final/resp.c with any bytes: it makes no difference how they are cut
 *
 * A libFuzzer target. The first byte of the input decides how the others are cut into
 * reads. See fuzz.py.
 */
#include "../../final/resp.h"
#include "../unit/check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All that was read: for each item its numbers, then its text. */
struct record {
    char bytes[1 << 18];
    size_t len;
};

static void record_add(struct record *to, const void *bytes, size_t len)
{
    CHECK(sizeof to->bytes - to->len >= len);
    if (len > 0)
        memcpy(to->bytes + to->len, bytes, len);
    to->len += len;
}

static void item_add(struct record *to, const struct resp_item *item)
{
    int64_t numbers[] = {(int64_t)item->type, item->depth, item->last, item->number,
                         (int64_t)item->text.len};

    CHECK(item->depth >= 0 && item->depth <= RESP_DEPTH_MAX);
    CHECK(item->text.len <= RESP_BULK_MAX);
    record_add(to, numbers, sizeof numbers);
    record_add(to, item->text.bytes, item->text.len);
}

/* A read has memory of its own, of exactly its size: nobody may read beyond it. */
static int read_piece(struct resp *resp, const uint8_t *bytes, size_t len,
                      struct record *to)
{
    char *copy = malloc(len > 0 ? len : 1);
    struct slice input = {copy, len};
    struct resp_item item;
    int got;

    memcpy(copy, bytes, len);
    while ((got = resp_next(resp, &input, &item)) > 0)
        item_add(to, &item);
    CHECK(got < 0 || input.len == 0);
    free(copy);
    return got;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct record want, got;
    struct resp whole = {.kept = NULL}, cut = {.kept = NULL};
    int end, result = 0;

    if (size < 1)
        return 0;
    want.len = got.len = 0;
    end = read_piece(&whole, data + 1, size - 1, &want);
    for (size_t at = 1, len; at < size && result == 0; at += len) {
        len = 1 + data[0] % 40;
        len = len < size - at ? len : size - at;
        result = read_piece(&cut, data + at, len, &got);
    }
    CHECK(result == end);
    CHECK(got.len == want.len && memcmp(got.bytes, want.bytes, got.len) == 0);
    CHECK(result < 0 || whole.depth == cut.depth);
    resp_close(&whole);
    resp_close(&cut);
    return 0;
}
