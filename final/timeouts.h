/*
 * timeouts.h - things that wait for something, each for the same time
 *
 * Since all in a list wait for the same time, the list is in the order in which their
 * times end: only the first one has to be looked at, however many there are.
 *
 * Interface: timeouts_init() with the time in milliseconds, 0 for no end. A thing enters
 * the list by timeout_begin(), at its end, and leaves it by timeout_end(); a struct
 * timeout is a member of it, as in list.h. Pure: the caller has the clock.
 */
#ifndef TIMEOUTS_H
#define TIMEOUTS_H

#include "list.h"

#include <stdint.h>

struct timeouts {
    struct list_node list;
    int64_t ms;
};

struct timeout {
    struct list_node node;
    int64_t since; /* when it entered the list */
};

static inline void timeouts_init(struct timeouts *timeouts, int64_t ms)
{
    list_init(&timeouts->list);
    timeouts->ms = ms;
}

static inline void timeout_begin(struct timeouts *timeouts, struct timeout *timeout,
                                 int64_t now)
{
    list_append(&timeouts->list, &timeout->node);
    timeout->since = now;
}

static inline void timeout_end(struct timeout *timeout)
{
    list_remove(&timeout->node);
}

/* The first one, or NULL. */
static inline struct timeout *timeouts_first(const struct timeouts *timeouts)
{
    const struct list_node *list = &timeouts->list;
    return list_empty(list) ? NULL : LIST_OWNER(list->next, struct timeout, node);
}

/* When the first one's time is over; INT64_MAX: never. */
static inline int64_t timeouts_next(const struct timeouts *timeouts)
{
    const struct timeout *first = timeouts_first(timeouts);
    return first == NULL || timeouts->ms == 0 ? INT64_MAX : first->since + timeouts->ms;
}

/* The first one if its time is over, or NULL. */
static inline struct timeout *timeouts_due(const struct timeouts *timeouts, int64_t now)
{
    return now >= timeouts_next(timeouts) ? timeouts_first(timeouts) : NULL;
}

/* Of two times the sooner one. */
static inline int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
