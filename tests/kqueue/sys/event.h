/*
 * sys/event.h - kqueue on Linux for the tests: as much of it as final/evloop.h needs
 *
 * Interface: struct kevent, kqueue() and kevent() as in kqueue(2) of FreeBSD and macOS.
 * kqueue.c, beside this folder, says what they do and when they abort.
 *
 * Compile with -isystem on the folder above this one. A system with a kqueue of its own
 * uses its own header, and a program that names a kqueue library with -I uses that one,
 * since -I goes before -isystem. Neither defines KQUEUE_STAND_IN: then kqueue.c is empty.
 */
#ifndef __linux__
#include_next <sys/event.h>
#elif !defined(KQUEUE_STAND_IN)
#define KQUEUE_STAND_IN

#include <stdint.h>
#include <time.h>

/*
 * Filters are numbers, not bits. With the numbers of the BSDs, -1 and -2, a program that
 * ORs them gets EVFILT_READ and half works; with these it gets -1, which is no filter.
 */
#define EVFILT_READ (-3)
#define EVFILT_WRITE (-2)

/* What to do, in the flags of a change. */
#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_ENABLE 0x0004 /* EV_ADD implies it */

/* Defined so that programs compile; refused at run time. */
#define EV_DISABLE 0x0008
#define EV_ONESHOT 0x0010
#define EV_CLEAR 0x0020
#define EV_RECEIPT 0x0040
#define EV_DISPATCH 0x0080

/* What came, in the flags of an event. */
#define EV_ERROR 0x4000
#define EV_EOF 0x8000

struct kevent {
    uintptr_t ident; /* the descriptor */
    int16_t filter;  /* EVFILT_READ or EVFILT_WRITE */
    uint16_t flags;  /* EV_... */
    uint32_t fflags; /* an event with EV_EOF: the socket's error, 0 if none */
    intptr_t data;   /* an event of EVFILT_READ: bytes that can be read */
    void *udata;     /* as given with EV_ADD */
};

/*
 * Evaluates its first argument six times, as OpenBSD's header did until 2015:
 * &changes[n++] goes wrong there, so it goes wrong here.
 */
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
int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events,
           int nevents, const struct timespec *timeout);

#endif
