/*
 * dial - connects to a host without waiting: all of its addresses, one after the other
 *
 * Interface: dial_open looks the host up (this may take a while). dial_next begins to
 * connect; when its socket is writable, dial_connected tells whether it worked. If not,
 * try dial_next again, until there are no more addresses. dial_close may come at any
 * time.
 */
#ifndef DIAL_H
#define DIAL_H

#include <stdbool.h>

struct addrinfo;

struct dial {
    struct addrinfo *list, *next; /* all addresses, the first one not tried yet */
    int error;                    /* the errno of the last one that failed */
};

/* Looks the host up. Returns NULL, or in words why it has no address. */
const char *dial_open(struct dial *dial, const char *host, const char *port);

/*
 * Returns a nonblocking socket that is being connected to the next address; the caller
 * closes it. -1 if none is left, and errno says what went wrong with the last one.
 */
int dial_next(struct dial *dial);

/* Call it when the socket is writable. If it is not connected, it is closed. */
bool dial_connected(struct dial *dial, int fd);

/* Frees the list of addresses. */
void dial_close(struct dial *dial);

#endif
