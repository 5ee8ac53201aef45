/*
 * dial - connects to a host without waiting: all of its addresses, one after the other
 *
 * Looking a name up may take half a minute, and getaddrinfo(3) cannot do it without
 * waiting: a child process waits instead.
 *
 * Interface: dial_open begins to look the host up. When its descriptor is readable,
 * dial_found tells whether there are addresses. dial_next begins to connect; when its
 * socket is writable, dial_connected tells whether it worked. If not, try dial_next
 * again, until there are no more addresses. dial_close may come at any time.
 */
#ifndef DIAL_H
#define DIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

enum { DIAL_MAX = 16 }; /* addresses that are tried */

struct dial_address {
    socklen_t len;
    struct sockaddr_storage address;
};

struct dial {
    int pipe;    /* from the child; valid only while there is one */
    pid_t child; /* 0: there is none */
    struct dial_address list[DIAL_MAX];
    size_t known, next; /* addresses; the first one not tried yet */
    int error;          /* the errno of the last one that failed */
};

/* Begins to look the host up. Returns a descriptor to wait for; -1 and errno. */
int dial_open(struct dial *dial, const char *host, const char *port);

/* Call it when that is readable. Returns NULL, or in words why there is no address. */
const char *dial_found(struct dial *dial);

/*
 * Returns a nonblocking socket that is being connected to the next address; the caller
 * closes it. -1 if none is left, and errno says what went wrong with the last one.
 */
int dial_next(struct dial *dial);

/* Call it when the socket is writable. If it is not connected, it is closed. */
bool dial_connected(struct dial *dial, int fd);

/* Ends the child, if it still runs. */
void dial_close(struct dial *dial);

#endif
