/*
 * evloop.h - an event loop on epoll (Linux) or kqueue (macOS, BSD), chosen when compiled
 *
 * Interface: a loop watches descriptors. For each one the program says what it is
 * interested in (EVLOOP_READ, EVLOOP_WRITE or both) and hands over a pointer, data, that
 * comes back with every event. evloop_wait() sleeps until something can be done without
 * blocking.
 *
 *   - Level-triggered: what a handler leaves undone is reported again by the next wait.
 *   - Errors and hang-ups count as readable: the next read tells what happened. Without
 *     interest in reading epoll does the same; kqueue says writable, and a write tells.
 *   - The caller remembers each descriptor's interest and passes it as `old`; the loop
 *     keeps nothing but its own descriptor: no memory, and close(2) releases it.
 *   - An interest of 0 means that the descriptor is not watched at all.
 *   - Delete a descriptor before closing it. Its data stays the same while it is watched.
 *   - Of a pipe, no system promises that the end of the other side is reported, or how
 *     often. Sockets are alike everywhere.
 *   - kqueue reports "readable" and "writable" as two events, so one batch may carry the
 *     same data twice: what data points to has to live until the batch is over.
 *
 * All functions return -1 and set errno on failure, as the system calls beneath them do.
 * The two halves have the same functions in the same order: read them side by side.
 * To see the kqueue half on a system that has both, compile with -DEVLOOP_KQUEUE.
 */
#ifndef EVLOOP_H
#define EVLOOP_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

enum { EVLOOP_READ = 1, EVLOOP_WRITE = 2 }; /* bits of interest and of ready */
enum { EVLOOP_BATCH = 256 }; /* events per wait at most: bounds the stack */

struct evloop_event {
    void *data; /* as given for this descriptor */
    int ready;  /* EVLOOP_READ, EVLOOP_WRITE or both */
};

#if defined(__linux__) && !defined(EVLOOP_KQUEUE)

/* ---- epoll: a descriptor is registered once, with a mask of events; epoll(7) ---- */

#include <sys/epoll.h>

/* Returns a new loop's descriptor. */
static inline int evloop_open(void)
{
    return epoll_create1(EPOLL_CLOEXEC);
}

/* Changes what is watched from old to interest. Returns 0. */
static inline int evloop_mod(int loop, int fd, int old, int interest, void *data)
{
    int op = !old ? EPOLL_CTL_ADD : !interest ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    struct epoll_event change = {.events = 0, .data.ptr = data};

    if (old == interest)
        return 0;
    if (interest & EVLOOP_READ)
        change.events |= EPOLLIN;
    if (interest & EVLOOP_WRITE)
        change.events |= EPOLLOUT;
    return epoll_ctl(loop, op, fd, &change);
}

/* Starts to watch a descriptor. Returns 0. */
static inline int evloop_add(int loop, int fd, int interest, void *data)
{
    return evloop_mod(loop, fd, 0, interest, data);
}

/* Stops watching a descriptor; call it before close(fd). Returns 0. */
static inline int evloop_del(int loop, int fd, int old)
{
    return evloop_mod(loop, fd, old, 0, NULL);
}

/*
 * Waits until a descriptor is ready, for timeout_ms milliseconds at most; -1: for ever.
 * Fills events with at most max entries (max > 0) and returns how many; 0 after the
 * timeout or a signal.
 */
static inline int evloop_wait(int loop, struct evloop_event *events, int max,
                              int timeout_ms)
{
    struct epoll_event batch[EVLOOP_BATCH];
    int n = epoll_wait(loop, batch, max < EVLOOP_BATCH ? max : EVLOOP_BATCH, timeout_ms);

    for (int i = 0; i < n; i++) {
        uint32_t came = batch[i].events;
        events[i].data = batch[i].data.ptr;
        events[i].ready = (came & ~(uint32_t)EPOLLOUT ? EVLOOP_READ : 0) |
                          (came & EPOLLOUT ? EVLOOP_WRITE : 0);
    }
    return n < 0 && errno == EINTR ? 0 : n;
}

#elif defined(EVLOOP_KQUEUE) || defined(__APPLE__) || defined(__FreeBSD__) ||            \
    defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)

/* ---- kqueue: a filter per kind of event, added and deleted alone; kqueue(2) ---- */

#include <sys/types.h>

#include <sys/event.h>
#include <sys/time.h>

/* Returns a new loop's descriptor. */
static inline int evloop_open(void)
{
    return kqueue();
}

/* Changes what is watched from old to interest. Returns 0. */
static inline int evloop_mod(int loop, int fd, int old, int interest, void *data)
{
    int differ = old ^ interest;
    struct kevent changes[2];
    unsigned short n = 0; /* fits an int, and the size_t of NetBSD */

    if (differ & EVLOOP_READ) {
        EV_SET(&changes[n], (uintptr_t)fd, EVFILT_READ,
               interest & EVLOOP_READ ? EV_ADD : EV_DELETE, 0, 0,
               (__typeof__(changes->udata))data); /* NetBSD 9: an intptr_t */
        n++; /* not in EV_SET: as a macro it may evaluate this more than once */
    }
    if (differ & EVLOOP_WRITE) {
        EV_SET(&changes[n], (uintptr_t)fd, EVFILT_WRITE,
               interest & EVLOOP_WRITE ? EV_ADD : EV_DELETE, 0, 0,
               (__typeof__(changes->udata))data);
        n++;
    }
    return n == 0 ? 0 : kevent(loop, changes, n, NULL, 0, NULL);
}

/* Starts to watch a descriptor. Returns 0. */
static inline int evloop_add(int loop, int fd, int interest, void *data)
{
    return evloop_mod(loop, fd, 0, interest, data);
}

/* Stops watching a descriptor; call it before close(fd). Returns 0. */
static inline int evloop_del(int loop, int fd, int old)
{
    return evloop_mod(loop, fd, old, 0, NULL);
}

/*
 * Waits until a descriptor is ready, for timeout_ms milliseconds at most; -1: for ever.
 * Fills events with at most max entries (max > 0) and returns how many; 0 after the
 * timeout or a signal.
 */
static inline int evloop_wait(int loop, struct evloop_event *events, int max,
                              int timeout_ms)
{
    struct kevent batch[EVLOOP_BATCH];
    struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    unsigned short room = max < EVLOOP_BATCH ? (unsigned short)max : EVLOOP_BATCH;
    int n = kevent(loop, NULL, 0, batch, room, timeout_ms < 0 ? NULL : &timeout);

    for (int i = 0; i < n; i++) {
        events[i].data = (void *)batch[i].udata;
        events[i].ready = batch[i].filter == EVFILT_WRITE ? EVLOOP_WRITE : EVLOOP_READ;
    }
    return n < 0 && errno == EINTR ? 0 : n;
}

#else
#error "neither epoll nor kqueue: this system has no event loop that evloop.h knows"
#endif
#endif
