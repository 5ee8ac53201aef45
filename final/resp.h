/*
 * resp - Redis's wire format, RESP2: commands out, replies in
 *
 * A command is an array of byte strings. A reply is a status, an error, a number, a
 * string, nil, or an array of replies. It comes back as a row of items, each as soon as
 * its last byte is there: first an array with how many items are in it, then these. So a
 * long reply needs no more memory than its longest string, and its first entry can be
 * used before its last one has come. How the replies were cut into reads makes no
 * difference.
 *
 * Interface: resp_command() writes a command into the caller's buffer. For the replies of
 * a connection start with a struct resp of zeros, hand every read to resp_next() until it
 * returns 0, and call resp_close() at the end. Memory is held only while a string or line
 * is incomplete. Pure: no sockets.
 *
 * The format: https://redis.io/docs/latest/develop/reference/protocol-spec/
 */
#ifndef RESP_H
#define RESP_H

#include "lines.h" /* struct slice */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RESP_BULK_MAX = 256 * 1024 }; /* bytes: longer strings are passed over */
enum { RESP_LINE_MAX = 1024 };       /* bytes of a status or error, CR LF included */
enum { RESP_DEPTH_MAX = 8 };         /* arrays in arrays; XREAD's reply needs five */

enum resp_type {
    RESP_STATUS,  /* text */
    RESP_ERROR,   /* text: a word in capitals, then a sentence */
    RESP_INTEGER, /* number */
    RESP_BULK,    /* text: any bytes */
    RESP_LONG,    /* number: the length of a string that was too long to be kept */
    RESP_ARRAY,   /* number: how many items are in it */
    RESP_NIL
};

struct resp_item {
    enum resp_type type;
    int depth; /* how many arrays are around it; 0: it is the reply */
    bool last; /* the reply is complete with it */
    int64_t number;
    struct slice text; /* valid until the next call */
};

struct resp {
    int64_t left[RESP_DEPTH_MAX]; /* of each open array: items to come */
    int depth;                    /* how many arrays are open */
    bool bulk;                    /* a string has begun: */
    int64_t bulk_len;             /* its length, */
    int64_t bulk_left;            /* and what is still to come of it and its CR LF */
    char *kept;                   /* what is here of a string or line, or NULL, */
    size_t len;                   /* in bytes */
    bool shown;                   /* and the last item's text is in it */
};

/*
 * Writes a command of count words to a buffer of `room` bytes. Returns its length, or 0
 * if there is not enough room.
 */
size_t resp_command(char *to, size_t room, const struct slice *words, size_t count);

/*
 * Takes the next item off the front of input. Returns 1 and sets item; 0 when input is
 * used up; -1 with errno EPROTO if it is not RESP2 or is beyond the limits above, or
 * ENOMEM. After -1 nothing more can be read from that connection.
 */
int resp_next(struct resp *resp, struct slice *input, struct resp_item *item);

/* Releases the memory; the struct is as new. */
void resp_close(struct resp *resp);

#endif
