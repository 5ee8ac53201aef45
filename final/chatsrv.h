/*
 * chatsrv.h - what the server keeps: its state, and that of each client
 */
#ifndef CHATSRV_H
#define CHATSRV_H

#include "addresses.h"
#include "arrivals.h"
#include "feed.h"
#include "lines.h"
#include "listeners.h"
#include "net.h"
#include "options.h"
#include "rate.h"
#include "room.h"
#include "timeouts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define END_LATER (UINT64_MAX - 1) /* client.end: not known yet */

struct server {
    struct options options;
    struct rate rate;
    int loop;
    struct watched watched; /* the signals: */
    int signals;            /* process_signals() */
    struct listeners listeners;
    struct arrivals arrivals; /* with -p: those whose PROXY header has not come yet */
    struct feed feed;         /* what all clients are sent */
    struct room *room;        /* through which it comes, or NULL */
    bool room_waits;          /* its turn comes in the next round */
    uint64_t flushed;         /* where the feed ended when it was last sent to all */

    /* Each client is in one of these, by what it is sent: */
    struct timeouts flowing; /* it has all of the feed */
    struct timeouts stalled; /* it waits for room */
    struct timeouts deaf;    /* nothing more: sending has failed, or we are stopping */
    struct timeouts closed;  /* it will be freed at the end of the batch */
    /* And in one of these, by what it says: */
    struct timeouts speakers; /* it may speak */
    struct timeouts paused;  /* it spoke too much, and is not read until its pause ends */
    struct timeouts leaving; /* its messages are over, and on their way in the room */
    struct timeouts mute;    /* its messages are over, so it is never idle */

    size_t clients_count;
    struct addresses addresses; /* and how many of them have come from where */
    int64_t now;                /* monotonic milliseconds, not older than the event */
    int64_t round_began;        /* when all descriptors began to be asked, */
    size_t round_events;        /* how many events they have had since, */
    size_t round_events_max;    /* and how many are enough for all of them */
    int64_t stop_at;            /* when to stop at the latest; 0: nobody has asked */
    bool stopping;              /* no message is taken any more */
    int log_retry_ms;           /* log_flush() */
};

struct client {
    struct watched watched;
    int fd;                    /* -1: closed in this batch */
    int interest;              /* what the loop watches fd for; for room while stalled */
    int send_error;            /* the errno that ended sending; 0: there was none */
    bool deaf;                 /* in server.deaf: its cursor is closed */
    bool input_ended;          /* it has half-closed, and may still read */
    size_t greeting_sent;      /* bytes of the greeting that it has */
    struct feed_cursor cursor; /* what it has of the feed */
    uint64_t end;              /* where its share of the feed ends; UINT64_MAX: not yet */
    struct timeout by_moved;   /* in server.flowing, stalled, deaf or closed */
    struct timeout by_heard;   /* in server.speakers, paused, leaving or mute */
    uint64_t last_word;        /* where it ends in the room, as room_said() counts */
    size_t unacknowledged;     /* bytes that were in the kernel when it last took one */
    int64_t rate_full_at;      /* see rate.h */
    struct address *address;   /* NULL: not counted */
    struct lines lines;        /* what it sends, split into messages */
    struct endpoint endpoint;
};

#endif
