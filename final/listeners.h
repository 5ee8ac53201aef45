/*
 * listeners - accept connections, and look away for a while when that fails
 *
 * Interface: listeners_open() at start-up; each newcomer is handed over, blocking as
 * accept(2) makes it on most systems; listeners_check() when listeners_next() has come.
 * Without a free descriptor, an arrival has to make room for a newcomer; if there is
 * none, the listeners pause.
 */
#ifndef LISTENERS_H
#define LISTENERS_H

#include "arrivals.h"
#include "net.h"
#include "watched.h"

#include <stdint.h>

struct listener {
    struct watched watched;
    struct listeners *all;
    int fd;
    int interest; /* what the loop watches fd for; 0 in a pause */
};

struct listeners {
    on_newcomer *on_newcomer;
    struct arrivals *arrivals; /* where newcomers go instead; NULL: there is no proxy */
    int loop;
    const int64_t *now; /* the caller's clock, in milliseconds */
    struct listener listeners[LISTENERS_MAX];
    size_t count;
    int64_t accept_at; /* when a pause in accepting ends; 0: there is none */
};

/*
 * Listens at all addresses of the host, see net_listen(), and logs where. on_newcomer,
 * arrivals, loop and now are set by the caller. An error ends the program.
 */
void listeners_open(struct listeners *listeners, const char *host, const char *port);

void listeners_close(struct listeners *listeners);

/* When a pause in accepting ends; INT64_MAX: there is none. */
int64_t listeners_next(const struct listeners *listeners);

/* Ends a pause if it is over. */
void listeners_check(struct listeners *listeners);

#endif
