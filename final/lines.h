/*
 * lines - splits a stream of bytes into messages
 *
 * A message is what stands before a newline, any bytes, at most MESSAGE_MAX of them. A
 * longer line becomes several messages, each complete as soon as one more byte shows that
 * the line goes on. How the stream was cut into reads makes no difference to the
 * messages.
 *
 * Interface: start with a struct lines of zeros; hand every read to lines_next() until it
 * returns 0; lines_end() returns what is left at end of file; lines_close() releases the
 * memory. lines_fit() looks ahead. Memory is held only while a message is incomplete. No
 * sockets, no log: see chatsrv.c.
 */
#ifndef LINES_H
#define LINES_H

#include <stdbool.h>
#include <stddef.h>

enum { MESSAGE_MAX = 1024 }; /* the assignment's limit in bytes, newline excluded */

/* Some bytes in somebody else's memory. */
struct slice {
    const char *bytes;
    size_t len;
};

struct lines {
    char *begun; /* the incomplete message: MESSAGE_MAX bytes on the heap, or NULL */
    size_t len;  /* its length so far */
};

/*
 * Takes the next message off the front of input. Returns 1 and sets message, which is
 * valid until the next call; 0 when input is used up (an incomplete message at its end is
 * kept); -1 with errno ENOMEM when that could not be kept.
 */
int lines_next(struct lines *lines, struct slice *input, struct slice *message);

/*
 * How many of len more bytes of input to take, so that lines_next() then gives at most
 * max messages (max > 0): all of them, or up to the end of the last one.
 */
size_t lines_fit(const struct lines *lines, const char *bytes, size_t len, size_t max);

/* At end of file: was there a last message without a newline? Sets message if so. */
bool lines_end(struct lines *lines, struct slice *message);

void lines_close(struct lines *lines);

#endif
