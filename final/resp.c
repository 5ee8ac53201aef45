/*
 * resp - see resp.h. Systems: any.
 */
#include "resp.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Commands ---- */

enum { HEAD_MAX = 24 }; /* bytes: one of "*$", a number, CR LF, NUL */

/* Writes how many words there are, or how long the next one is. Returns the length. */
static size_t head_write(char *to, char kind, size_t number)
{
    return (size_t)snprintf(to, HEAD_MAX, "%c%zu\r\n", kind, number);
}

size_t resp_command(char *to, size_t room, const struct slice *words, size_t count)
{
    size_t len;

    if (room < HEAD_MAX)
        return 0;
    len = head_write(to, '*', count);
    for (size_t i = 0; i < count; i++) {
        if (room - len < HEAD_MAX + 2 || room - len - HEAD_MAX - 2 < words[i].len)
            return 0;
        len += head_write(to + len, '$', words[i].len);
        if (words[i].len > 0)
            memcpy(to + len, words[i].bytes, words[i].len);
        len += words[i].len;
        memcpy(to + len, "\r\n", 2);
        len += 2;
    }
    return len;
}

/* ---- Replies ---- */

static int malformed(void)
{
    errno = EPROTO;
    return -1;
}

static void skip(struct slice *input, size_t len)
{
    input->bytes += len;
    input->len -= len;
}

/* Moves len bytes from the front of input to kept, which is to hold room bytes. */
static int keep(struct resp *resp, struct slice *input, size_t len, size_t room)
{
    if (resp->kept == NULL && (resp->kept = malloc(room)) == NULL)
        return -1;
    memcpy(resp->kept + resp->len, input->bytes, len);
    resp->len += len;
    skip(input, len);
    return 0;
}

/* Gives kept back before the next item is begun: until then the last one may show it. */
static void kept_free(struct resp *resp)
{
    free(resp->kept);
    resp->kept = NULL;
    resp->len = 0;
}

/*
 * Closes the arrays that end with this item; opens one if it is an array itself. Returns
 * what resp_next() does.
 */
static int item_end(struct resp *resp, struct resp_item *item)
{
    item->depth = resp->depth;
    if (item->type == RESP_ARRAY && item->number > 0) {
        if (resp->depth == RESP_DEPTH_MAX)
            return malformed();
        resp->left[resp->depth++] = item->number;
    } else {
        while (resp->depth > 0 && --resp->left[resp->depth - 1] == 0)
            resp->depth--;
    }
    item->last = resp->depth == 0;
    return 1;
}

/* Reads all of the text as a decimal number. */
static bool number_read(struct slice text, int64_t *number)
{
    bool minus = text.len > 0 && text.bytes[0] == '-';

    skip(&text, minus);
    *number = 0;
    if (text.len == 0)
        return false;
    for (; text.len > 0; skip(&text, 1)) {
        int digit = text.bytes[0] - '0';
        if (digit < 0 || digit > 9 || *number > (INT64_MAX - digit) / 10)
            return false;
        *number = 10 * *number + digit;
    }
    if (minus)
        *number = -*number;
    return true;
}

/* A string is complete: its last len bytes, with the CR LF. */
static int bulk_end(struct resp *resp, const char *bytes, size_t len,
                    struct resp_item *item)
{
    if (memcmp(bytes + len - 2, "\r\n", 2) != 0)
        return malformed();
    resp->bulk = false;
    if (resp->bulk_len > RESP_BULK_MAX)
        *item = (struct resp_item){.type = RESP_LONG, .number = resp->bulk_len};
    else
        *item = (struct resp_item){.type = RESP_BULK, .text = {bytes, len - 2}};
    return item_end(resp, item);
}

/* A string has begun: takes of it what is there. Of one too long only CR LF is kept. */
static int bulk_next(struct resp *resp, struct slice *input, struct resp_item *item)
{
    bool too_long = resp->bulk_len > RESP_BULK_MAX;
    size_t whole = too_long ? 2 : (size_t)resp->bulk_len + 2, len;
    const char *bytes;

    if (too_long && resp->bulk_left > 2) {
        int64_t text = resp->bulk_left - 2;
        len = text < (int64_t)input->len ? (size_t)text : input->len;
        skip(input, len);
        resp->bulk_left -= (int64_t)len;
        if (input->len == 0)
            return 0;
    }
    bytes = input->bytes;
    if (resp->bulk_left == (int64_t)whole && input->len >= whole) { /* no copy */
        skip(input, whole);
        return bulk_end(resp, bytes, whole, item);
    }
    len = (size_t)resp->bulk_left < input->len ? (size_t)resp->bulk_left : input->len;
    if (keep(resp, input, len, whole) < 0)
        return -1;
    resp->bulk_left -= (int64_t)len;
    return resp->bulk_left > 0 ? 0 : bulk_end(resp, resp->kept, whole, item);
}

/*
 * A line is complete; text is what stands between its first byte and its CR LF. Returns 0
 * if a string begins with it: the item is still to come.
 */
static int line_end(struct resp *resp, char kind, struct slice text,
                    struct resp_item *item)
{
    *item = (struct resp_item){.type = RESP_NIL, .text = text};
    if (kind == '+' || kind == '-') {
        item->type = kind == '+' ? RESP_STATUS : RESP_ERROR;
        return item_end(resp, item);
    }
    item->text.len = 0;
    if (!number_read(text, &item->number))
        return malformed();
    if (kind == ':') {
        item->type = RESP_INTEGER;
    } else if (item->number < -1 || (kind == '*' && item->number > INT_MAX) ||
               item->number > INT64_MAX - 2) {
        return malformed();
    } else if (item->number >= 0 && kind == '*') {
        item->type = RESP_ARRAY;
    } else if (item->number >= 0) {
        resp->bulk = true;
        resp->bulk_len = item->number;
        resp->bulk_left = item->number + 2;
        return 0;
    }
    return item_end(resp, item);
}

/*
 * Takes a line off the front of input. Returns 1 and sets line, without its CR LF; or 0
 * or -1 as resp_next() does.
 */
static int line_next(struct resp *resp, struct slice *input, struct slice *line)
{
    size_t room = RESP_LINE_MAX - resp->len;
    size_t seen = input->len < room ? input->len : room;
    const char *newline = memchr(input->bytes, '\n', seen), *bytes = input->bytes;
    size_t len = newline != NULL ? (size_t)(newline - bytes) + 1 : seen;

    if (newline == NULL && seen == room)
        return malformed();
    if (newline == NULL || resp->len > 0) { /* else all of it is in input: no copy */
        if (keep(resp, input, len, RESP_LINE_MAX) < 0)
            return -1;
        bytes = resp->kept;
        len = resp->len;
    } else {
        skip(input, len);
    }
    if (memchr("+-:$*", bytes[0], 5) == NULL)
        return malformed(); /* at once: it may be another protocol */
    if (newline == NULL)
        return 0;
    if (len < 3 || memchr(bytes, '\r', len) != bytes + len - 2)
        return malformed();
    *line = (struct slice){bytes, len - 2};
    return 1;
}

int resp_next(struct resp *resp, struct slice *input, struct resp_item *item)
{
    struct slice line;
    int got;

    if (resp->shown)
        kept_free(resp);
    resp->shown = false;
    while (input->len > 0) {
        if (resp->bulk) {
            got = bulk_next(resp, input, item);
        } else if ((got = line_next(resp, input, &line)) > 0) {
            char kind = *line.bytes;
            skip(&line, 1);
            got = line_end(resp, kind, line, item);
            if (resp->bulk)
                kept_free(resp);
        }
        resp->shown = got > 0;
        if (got != 0)
            return got;
    }
    return 0;
}

void resp_close(struct resp *resp)
{
    free(resp->kept);
    *resp = (struct resp){.kept = NULL};
}
