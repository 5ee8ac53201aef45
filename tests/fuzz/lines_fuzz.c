/*
 * lines_fuzz - final/lines.c against the protocol's rule: any bytes, cut in any way
 *
 * A libFuzzer target. The first two bytes of the input decide how the others are cut into
 * reads. See fuzz.py.
 */
#include "../../final/lines.h"
#include "../unit/check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Messages, one after the other, each with its length before it. */
struct record {
    char bytes[1 << 20];
    size_t len;
};

static void record_add(struct record *to, const char *bytes, size_t len)
{
    CHECK(len <= MESSAGE_MAX);
    CHECK(sizeof to->bytes - to->len >= sizeof len + len);
    memcpy(to->bytes + to->len, &len, sizeof len);
    memcpy(to->bytes + to->len + sizeof len, bytes, len);
    to->len += sizeof len + len;
}

/* The rule in its simplest form: all bytes are at hand. */
static void split_all(const char *bytes, size_t len, struct record *to)
{
    size_t begin = 0;

    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == '\n' || i - begin == MESSAGE_MAX) {
            record_add(to, bytes + begin, i - begin);
            begin = bytes[i] == '\n' ? i + 1 : i;
        }
    }
    if (begin < len)
        record_add(to, bytes + begin, len - begin);
}

/* A read has memory of its own, of exactly its size: nobody may read beyond it. */
static void split_read(struct lines *lines, const char *bytes, size_t len,
                       struct record *to)
{
    char *copy = malloc(len > 0 ? len : 1);
    struct slice input = {copy, len}, message;
    int got;

    memcpy(copy, bytes, len);
    while ((got = lines_next(lines, &input, &message)) > 0)
        record_add(to, message.bytes, message.len);
    CHECK(got == 0);
    CHECK(input.len == 0);
    CHECK((lines->begun != NULL) == (lines->len > 0)); /* no memory that is not needed */
    free(copy);
}

static void split_cut(unsigned cut, const char *bytes, size_t len, struct record *to)
{
    struct lines lines = {NULL, 0};
    struct slice tail;

    while (len > 0) {
        size_t size = 1 + cut % (cut & 1 ? 7 : 3000);
        size = size < len ? size : len;
        split_read(&lines, bytes, size, to);
        bytes += size;
        len -= size;
        cut = cut * 1103515245 + 12345;
    }
    if (lines_end(&lines, &tail))
        record_add(to, tail.bytes, tail.len);
    lines_close(&lines);
    CHECK(lines.begun == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct record want, got;

    if (size < 2 || size > sizeof want.bytes / 16)
        return 0;
    want.len = got.len = 0;
    split_all((const char *)data + 2, size - 2, &want);
    split_cut(data[0] * 256U + data[1], (const char *)data + 2, size - 2, &got);
    CHECK(want.len == got.len);
    CHECK(memcmp(want.bytes, got.bytes, want.len) == 0);
    return 0;
}
