/*
 * sys/event.h - kqueue's types as on NetBSD 9, to compile with; nothing runs on it
 *
 * There udata is a number, filters and flags are unsigned, and the counts of kevent() are
 * of type size_t. final/evloop.h has to compile with all of that, without a warning.
 */
#ifndef KQUEUE_NETBSD
#define KQUEUE_NETBSD

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define EVFILT_READ 0U
#define EVFILT_WRITE 1U
#define EV_ADD 0x0001U
#define EV_DELETE 0x0002U

struct kevent {
    uintptr_t ident;
    uint32_t filter;
    uint32_t flags;
    uint32_t fflags;
    int64_t data;
    intptr_t udata;
};

#define EV_SET(kevp, a, b, c, d, e, f)                                                   \
    do {                                                                                 \
        (kevp)->ident = (a);                                                             \
        (kevp)->filter = (b);                                                            \
        (kevp)->flags = (c);                                                             \
        (kevp)->fflags = (d);                                                            \
        (kevp)->data = (e);                                                              \
        (kevp)->udata = (f);                                                             \
    } while (0)

int kqueue(void);
int kevent(int kq, const struct kevent *changes, size_t nchanges, struct kevent *events,
           size_t nevents, const struct timespec *timeout);

#endif
