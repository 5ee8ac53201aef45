/*
 * rate - how many messages a client may say: some per second, and a burst now and then
 *
 * A bucket holds what may be said at once, ten seconds' worth. Saying empties it, time
 * fills it. It is just one number per client: the time at which its bucket will be full.
 * Whoever comes back finds the bucket as it was left, if the caller keeps that number.
 *
 * Interface: rate_make(); then, for each client, an int64_t that begins at 0. Pure: the
 * caller has the clock, in milliseconds.
 */
#ifndef RATE_H
#define RATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RATE_BURST_S = 10 };      /* seconds' worth that may come at once */
enum { RATE_MAX = 1000000 };     /* messages a second: exact to a thousandth */
enum { RATE_PAUSE_MIN_MS = 50 }; /* shorter pauses cost more than they even out */

struct rate {
    int64_t cost_ns; /* how long the bucket takes for one message; 0: there is no limit */
};

/* The rate of that many messages per second, 1 to RATE_MAX; 0: no limit. */
struct rate rate_make(long messages);

/* How many messages may be said now. */
size_t rate_allows(struct rate rate, int64_t full_at, int64_t now_ms);

/* Takes a message out of the bucket. Returns the new full_at. */
int64_t rate_spend(struct rate rate, int64_t full_at, int64_t now_ms);

/* Is the bucket not full yet? */
bool rate_fills(int64_t full_at, int64_t now_ms);

/* Milliseconds after which an empty bucket allows at least one message. */
int64_t rate_pause_ms(struct rate rate);

#endif
