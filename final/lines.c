/*
 * lines - see lines.h. Systems: any.
 */
#include "lines.h"

#include <stdlib.h>
#include <string.h>

/* Moves len bytes from the front of input to the end of the incomplete message. */
static int lines_keep(struct lines *lines, struct slice *input, size_t len)
{
    if (lines->begun == NULL && (lines->begun = malloc(MESSAGE_MAX)) == NULL)
        return -1;
    memcpy(lines->begun + lines->len, input->bytes, len);
    lines->len += len;
    input->bytes += len;
    input->len -= len;
    return 0;
}

/* Cuts a message that ends after len more bytes of input. */
static int lines_cut(struct lines *lines, struct slice *input, size_t len,
                     struct slice *message)
{
    if (lines->len == 0) { /* the common case: all of it is in input, no copy is needed */
        *message = (struct slice){input->bytes, len};
        input->bytes += len;
        input->len -= len;
        return 1;
    }
    if (lines_keep(lines, input, len) < 0)
        return -1;
    *message = (struct slice){lines->begun, lines->len};
    lines->len = 0;
    return 1;
}

int lines_next(struct lines *lines, struct slice *input, struct slice *message)
{
    size_t room = MESSAGE_MAX - lines->len;
    size_t seen = input->len > room ? room + 1 : input->len; /* + 1: for the newline */
    const char *newline = seen > 0 ? memchr(input->bytes, '\n', seen) : NULL;

    if (newline != NULL) {
        int cut = lines_cut(lines, input, (size_t)(newline - input->bytes), message);
        input->bytes++; /* the newline */
        input->len--;
        return cut;
    }
    if (seen > room)
        return lines_cut(lines, input, room, message);
    if (seen > 0)
        return lines_keep(lines, input, seen);
    if (lines->len == 0)
        lines_close(lines);
    return 0;
}

size_t lines_fit(const struct lines *lines, const char *bytes, size_t len, size_t max)
{
    size_t begun = lines->len, at = 0;

    for (; at < len && max > 0; max--) {
        size_t room = MESSAGE_MAX - begun;
        size_t seen = len - at > room ? room + 1 : len - at;
        const char *newline = memchr(bytes + at, '\n', seen);

        if (newline != NULL)
            at = (size_t)(newline - bytes) + 1;
        else if (seen <= room)
            return len;
        else
            at += max == 1 ? room + 1 : room; /* the byte behind shows that it is one */
        begun = 0;
    }
    return at;
}

bool lines_end(struct lines *lines, struct slice *message)
{
    *message = (struct slice){lines->begun, lines->len};
    lines->len = 0;
    return message->len > 0;
}

void lines_close(struct lines *lines)
{
    free(lines->begun);
    *lines = (struct lines){NULL, 0};
}
