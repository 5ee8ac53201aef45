/*
 * buffer - see buffer.h. Systems: Linux, macOS and the BSDs.
 */
#include "buffer.h"

#include <string.h>
#include <unistd.h>

size_t buffer_room(const struct buffer *b)
{
    return BUFFER_SIZE - b->len;
}

/* Moves what is there to the front, and returns where more can be put. */
static char *buffer_end(struct buffer *b)
{
    memmove(b->bytes, b->bytes + b->start, b->len);
    b->start = 0;
    return b->bytes + b->len;
}

void buffer_add(struct buffer *b, const char *bytes, size_t len)
{
    memcpy(buffer_end(b), bytes, len);
    b->len += len;
}

void buffer_drop(struct buffer *b, size_t len)
{
    b->start += len;
    b->len -= len;
}

ssize_t buffer_read(struct buffer *b, int fd)
{
    char *end = buffer_end(b);
    ssize_t got = read(fd, end, buffer_room(b));

    if (got > 0)
        b->len += (size_t)got;
    return got;
}

ssize_t buffer_write(struct buffer *b, int fd, size_t max)
{
    ssize_t written = write(fd, b->bytes + b->start, b->len < max ? b->len : max);

    if (written > 0)
        buffer_drop(b, (size_t)written);
    return written;
}
