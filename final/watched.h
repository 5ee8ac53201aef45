/*
 * watched.h - what chatsrv's event loop watches, and who gets its events
 *
 * Interface: the data that goes with a descriptor (evloop.h) points to something whose
 * first member is a struct watched; its function is called with that and what is ready.
 */
#ifndef WATCHED_H
#define WATCHED_H

struct watched {
    void (*on_event)(void *owner, int ready);
};

#endif
