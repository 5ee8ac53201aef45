/*
 * watched.h - what chatsrv's event loop watches: whose event it is, it knows itself
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
