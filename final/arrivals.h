/*
 * arrivals - connections that a proxy has passed on, until their PROXY header is there
 *
 * Interface: arrivals_open() once; arrivals_add() for each connection that is accepted.
 * When its header is complete, the connection is handed over with the client's address,
 * and what stands behind the header is still in its socket. One that begins with
 * anything else, or takes too long, is closed, and the log says why; so is the oldest one
 * without a header when its descriptor is needed.
 */
#ifndef ARRIVALS_H
#define ARRIVALS_H

#include "net.h"
#include "timeouts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arrivals {
    on_newcomer *on_newcomer; /* takes those whose header has come */
    int loop;
    const int64_t *now; /* the caller's clock, in milliseconds */
    struct timeouts waiting;
    struct timeouts closed; /* or handed over; a batch of events may still name them */
    size_t count;           /* of those who wait */
};

/* Makes an empty set. on_newcomer, loop and now are set by the caller. */
void arrivals_open(struct arrivals *arrivals);

/* Takes over a connection; from: who has connected, so the proxy. */
void arrivals_add(struct arrivals *arrivals, int fd, const struct sockaddr_storage *from);

/* When the first one's time is over, in milliseconds; INT64_MAX: never. */
int64_t arrivals_next(const struct arrivals *arrivals);

/*
 * Hands over the one that has waited longest, if its header has come, or else closes it.
 * Returns whether there was one.
 */
bool arrivals_make_room(struct arrivals *arrivals);

/* Closes those whose time was over at that moment, in milliseconds. Between batches. */
void arrivals_check(struct arrivals *arrivals, int64_t now);

/* Closes all. Between batches. */
void arrivals_close(struct arrivals *arrivals);

#endif
