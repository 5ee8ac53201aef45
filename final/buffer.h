/*
 * buffer - bytes between one descriptor and another, in a fixed amount of memory
 *
 * Interface: read from a descriptor only while buffer_room is not 0, and write to one
 * only while len is not 0: whoever cannot go on waits, and nothing grows. All zero means
 * empty.
 */
#ifndef BUFFER_H
#define BUFFER_H

#include <stddef.h>
#include <sys/types.h>

enum { BUFFER_SIZE = 256 * 1024 };

struct buffer {
    char bytes[BUFFER_SIZE];
    size_t start, len; /* what is in it: bytes[start..start + len) */
};

/* Returns how many bytes can be added. */
size_t buffer_room(const struct buffer *b);

/* Adds bytes, for which there must be room. */
void buffer_add(struct buffer *b, const char *bytes, size_t len);

/* Removes the first bytes. */
void buffer_drop(struct buffer *b, size_t len);

/* As read(2), into the room that there is. */
ssize_t buffer_read(struct buffer *b, int fd);

/* As write(2), of at most max bytes. */
ssize_t buffer_write(struct buffer *b, int fd, size_t max);

#endif
