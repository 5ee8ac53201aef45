/*
 * kqueue.c - kqueue(2) and kevent(2) on Linux's epoll, strict, for the tests
 *
 * Interface: sys/event.h. Linked with this file, a program written for kqueue runs on
 * Linux. If it breaks one of these rules, one line goes to stderr and abort() ends it:
 *
 *   - No EV_ADD of a filter that is there already: kernels differ in what it does.
 *   - No EVFILT_READ | EVFILT_WRITE: filters are numbers, not bits.
 *   - No flags other than EV_ADD, EV_ADD | EV_ENABLE or EV_DELETE.
 *   - No descriptor is closed before its filters are deleted.
 *   - No changes and a wait in one kevent().
 *
 * As in the kernels: events are level-triggered; READ and WRITE are separate events, and
 * only filters that are there are reported; EV_EOF may come with bytes unread; a bad
 * descriptor gives EBADF (on macOS a closed one gives ENOENT), and deleting an absent
 * filter ENOENT; with nevents = 0 the first change that fails ends the call, and those
 * before it stay made; a signal ends a wait with EINTR, even with SA_RESTART; a child of
 * fork() does not inherit the kqueue. Kernels differ in which of a descriptor's events
 * comes first and in what comes between the two, so both vary here. They also differ in
 * how often they report a pipe whose other end is closed: always, once (FreeBSD) or never
 * (NetBSD, OpenBSD). Here successive pipes take turns: one is reported always, one once,
 * one never.
 *
 * Not as in the kernels:
 *   - Linux reveals a socket's error only by clearing it: fflags is always ECONNRESET.
 *   - A program's own shutdown(SHUT_WR) makes WRITE ready, but without EV_EOF.
 *   - data is always 1 for EVFILT_WRITE, and for EVFILT_READ on a listening socket.
 *   - A wait takes at most BATCH epoll events, and its timeout is rounded up to
 *     milliseconds.
 *   - A regular file is refused with EPERM, as epoll does.
 * One thread only.
 */
#include <sys/types.h>

#include <sys/event.h>

#ifdef KQUEUE_STAND_IN /* not with a real kqueue: sys/event.h */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BATCH = 512 };         /* events per wait: bounds the stack */
enum { READ = 1, WRITE = 2 }; /* the filters as bits, to keep them in a set */
enum { BOTH = READ | WRITE };

/* A descriptor in a kqueue. */
struct watch {
    int filters; /* those that are there; 0: not watched */
    int turn;    /* the one to report first when both are ready */
    bool muted;  /* epoll was told not to repeat itself */
    int ends;    /* how often a pipe's closed other end is still reported; -1: always */
    void *read_data;
    void *write_data;
};

/* A kqueue: an epoll descriptor, and what epoll has no room for. */
struct queue {
    struct queue *next;
    int kq;
    pid_t owner;
    struct watch *watches; /* by descriptor number */
    size_t size;
};

static struct queue *queues;

static _Noreturn void rule_broken(int fd, const char *what)
{
    fprintf(stderr, "kqueue: descriptor %d: %s\n", fd, what);
    abort();
}

/* ---- the kqueues ---- */

/* Forgets the kqueue with that descriptor, if there is one. */
static void queue_free(int kq)
{
    struct queue **link = &queues;
    struct queue *queue;

    while (*link && (*link)->kq != kq)
        link = &(*link)->next;
    queue = *link;
    if (!queue)
        return;
    *link = queue->next;
    free(queue->watches);
    free(queue);
}

/* Returns this process's kqueue with that descriptor, or NULL with EBADF. */
static struct queue *queue_find(int kq)
{
    pid_t self = getpid();

    for (struct queue *queue = queues; queue; queue = queue->next)
        if (queue->kq == kq && queue->owner == self)
            return queue;
    errno = EBADF;
    return NULL;
}

/* Returns what is known about a descriptor, or NULL if it is not watched. */
static struct watch *watch_find(const struct queue *queue, int fd)
{
    if (fd < 0 || (size_t)fd >= queue->size || !queue->watches[fd].filters)
        return NULL;
    return &queue->watches[fd];
}

/* Returns the place for data about an open descriptor, or NULL with ENOMEM. */
static struct watch *watch_place(struct queue *queue, int fd)
{
    size_t size = queue->size ? queue->size : 64;
    struct watch *watches = queue->watches;

    while (size <= (size_t)fd)
        size *= 2;
    if (size > queue->size) {
        watches = realloc(watches, size * sizeof *watches);
        if (!watches)
            return NULL;
        memset(watches + queue->size, 0, (size - queue->size) * sizeof *watches);
        queue->watches = watches;
        queue->size = size;
    }
    return &watches[fd];
}

int kqueue(void)
{
    struct queue *queue = calloc(1, sizeof *queue);
    int kq = queue ? epoll_create1(EPOLL_CLOEXEC) : -1;

    if (kq < 0) {
        free(queue);
        return -1;
    }
    queue_free(kq); /* one that was closed past our close(), by dup2() for instance */
    queue->kq = kq;
    queue->owner = getpid();
    queue->next = queues;
    queues = queue;
    return kq;
}

/*
 * Takes the place of the C library's close(). Only here can a descriptor that is closed
 * with its filters still there be told from one that is merely silent.
 */
int close(int fd)
{
    pid_t self = getpid();

    queue_free(fd);
    for (struct queue *queue = queues; queue; queue = queue->next)
        if (queue->owner == self && watch_find(queue, fd))
            rule_broken(fd, "closed before its filters were deleted");
    return (int)syscall(SYS_close, fd);
}

/* ---- changes ---- */

static uint32_t filters_mask(int filters)
{
    uint32_t mask = 0;

    if (filters & READ)
        mask |= EPOLLIN | EPOLLRDHUP;
    if (filters & WRITE)
        mask |= EPOLLOUT;
    return mask;
}

static int epoll_change(struct queue *queue, int op, int fd, int filters)
{
    struct epoll_event event = {.events = filters_mask(filters), .data.fd = fd};

    if (fd >= 0 && (size_t)fd < queue->size)
        queue->watches[fd].muted = false;
    return epoll_ctl(queue->kq, op, fd, &event);
}

/* Returns the filter of a change as a bit, if the change keeps the rules. */
static int change_filter(const struct kevent *change)
{
    int flags = change->flags;
    int fd = (int)change->ident;

    if (flags != EV_ADD && flags != (EV_ADD | EV_ENABLE) && flags != EV_DELETE)
        rule_broken(fd, "flags other than EV_ADD, EV_ADD | EV_ENABLE or EV_DELETE");
    if (change->filter == EVFILT_READ)
        return READ;
    if (change->filter == EVFILT_WRITE)
        return WRITE;
    rule_broken(fd, "neither EVFILT_READ nor EVFILT_WRITE: filters are not bits to OR");
}

/* Returns 0, or -1 with ENOENT if the filter is not there. */
static int filter_delete(struct queue *queue, int fd, int filter)
{
    struct watch *watch = watch_find(queue, fd);

    if (!watch || !(watch->filters & filter)) {
        errno = ENOENT;
        return -1;
    }
    watch->filters &= ~filter;
    return epoll_change(queue, watch->filters ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, fd,
                        watch->filters);
}

/* Returns how often a pipe's closed other end is to be reported: -1 (always), 0 or 1. */
static int ends_to_report(int fd)
{
    static int pipes;
    struct stat status;

    return fstat(fd, &status) < 0 || !S_ISFIFO(status.st_mode) ? -1 : pipes++ % 3 - 1;
}

/* Returns 0, or -1 with epoll_ctl's errno, or ENOMEM. */
static int filter_add(struct queue *queue, int fd, int filter, void *udata)
{
    struct watch *watch = watch_place(queue, fd);

    if (!watch)
        return -1;
    if (watch->filters & filter)
        rule_broken(fd, "EV_ADD of a filter that is there already");
    if (epoll_change(queue, watch->filters ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd,
                     watch->filters | filter) < 0)
        return -1;
    if (!watch->filters) {
        watch->turn = READ;
        watch->ends = ends_to_report(fd);
    }
    watch->filters |= filter;
    *(filter == READ ? &watch->read_data : &watch->write_data) = udata;
    return 0;
}

/* Makes one change. Returns 0, or -1 with errno. */
static int change_make(struct queue *queue, const struct kevent *change)
{
    int filter = change_filter(change);
    int fd = change->ident <= INT_MAX ? (int)change->ident : -1;
    const struct watch *watch = watch_find(queue, fd);

    /* epoll forgets a file that is closed, even if another one has its number now. */
    if (watch && epoll_change(queue, EPOLL_CTL_MOD, fd, watch->filters) < 0)
        rule_broken(fd, "closed, or made another file, before its filters were deleted");
    if (!watch && fcntl(fd, F_GETFD) < 0)
        return -1; /* EBADF */
    if (change->flags & EV_ADD)
        return filter_add(queue, fd, filter, change->udata);
    return filter_delete(queue, fd, filter);
}

/* ---- events ---- */

/* Returns the filters that are ready. epoll reports hang-ups and errors unasked. */
static int filters_ready(const struct watch *watch, uint32_t came)
{
    int ready = 0;

    if (came & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        ready |= READ;
    if (came & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        ready |= WRITE;
    return ready & watch->filters;
}

/* Returns how many bytes can be read; 1 for a listening socket: it has a connection. */
static int bytes_readable(int fd)
{
    int bytes;

    return ioctl(fd, FIONREAD, &bytes) < 0 ? 1 : bytes;
}

static struct kevent read_event(const struct watch *watch, int fd, uint32_t came)
{
    struct kevent event = {.ident = (uintptr_t)fd, .filter = EVFILT_READ};

    if (came & (EPOLLRDHUP | EPOLLHUP))
        event.flags = EV_EOF;
    if (came & EPOLLERR)
        event.fflags = ECONNRESET;
    event.data = bytes_readable(fd);
    event.udata = watch->read_data;
    return event;
}

static struct kevent write_event(const struct watch *watch, int fd, uint32_t came)
{
    struct kevent event = {.ident = (uintptr_t)fd, .filter = EVFILT_WRITE};

    if (came & (EPOLLHUP | EPOLLERR)) /* EPOLLERR alone: a pipe has no reader any more */
        event.flags = EV_EOF;
    if (came & EPOLLERR)
        event.fflags = ECONNRESET;
    event.data = 1;
    event.udata = watch->write_data;
    return event;
}

static struct kevent event_of(const struct watch *watch, int filter,
                              const struct epoll_event *came)
{
    return filter == READ ? read_event(watch, came->data.fd, came->events)
                          : write_event(watch, came->data.fd, came->events);
}

/*
 * Returns true if nothing came but a pipe's end, and that is not to be reported (again).
 * epoll cannot ignore it, but with EPOLLET it reports it only once.
 */
static bool end_unreported(struct queue *queue, struct watch *watch,
                           const struct epoll_event *came)
{
    int fd = came->data.fd;
    struct epoll_event once = {.events = EPOLLET, .data.fd = fd};
    bool more = watch->filters == READ ? bytes_readable(fd) > 0 : came->events & EPOLLOUT;

    if (!(came->events & (EPOLLHUP | EPOLLERR)) || watch->ends < 0 || more)
        return false;
    if (watch->ends > 0) {
        watch->ends--;
        return false;
    }
    if (!watch->muted)
        epoll_ctl(queue->kq, EPOLL_CTL_MOD, fd, &once);
    watch->muted = true;
    return true;
}

/*
 * Waits as kevent() does. Every descriptor gets one event; then those with both filters
 * ready get the other one, as long as there is room. The two filters take turns in coming
 * first, so that neither starves when there is room for one event; epoll does the same
 * for descriptors.
 */
static int events_wait(struct queue *queue, struct kevent *events, int max, int timeout)
{
    struct epoll_event batch[BATCH];
    int ready = epoll_wait(queue->kq, batch, max < BATCH ? max : BATCH, timeout);
    int n = 0;

    for (int i = 0; i < ready; i++) {
        struct watch *watch = &queue->watches[batch[i].data.fd];
        int filters;

        if (end_unreported(queue, watch, &batch[i]))
            batch[i].events = 0;
        filters = filters_ready(watch, batch[i].events);
        if (filters == 0)
            continue;
        if (filters == BOTH) {
            filters = watch->turn;
            watch->turn = BOTH & ~watch->turn;
        }
        events[n++] = event_of(watch, filters, &batch[i]);
    }
    for (int i = 0; i < ready && n < max; i++) {
        const struct watch *watch = &queue->watches[batch[i].data.fd];

        if (filters_ready(watch, batch[i].events) == BOTH)
            events[n++] = event_of(watch, watch->turn, &batch[i]);
    }
    if (ready > 0 && n == 0) /* nothing to report: go on waiting */
        return events_wait(queue, events, max, timeout);
    return ready < 0 ? -1 : n;
}

/* Returns a timeout in milliseconds, rounded up; -1 (for ever) for NULL. */
static int timeout_ms(const struct timespec *timeout)
{
    if (!timeout)
        return -1;
    if (timeout->tv_sec >= INT_MAX / 1000)
        return INT_MAX;
    return (int)(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000);
}

int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events,
           int nevents, const struct timespec *timeout)
{
    struct queue *queue = queue_find(kq);

    if (!queue)
        return -1;
    if (nchanges > 0 && nevents > 0)
        rule_broken(kq, "changes and a wait in one kevent()");
    for (int i = 0; i < nchanges; i++)
        if (change_make(queue, &changes[i]) < 0)
            return -1;
    if (nevents <= 0)
        return 0;
    if (timeout &&
        (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000)) {
        errno = EINVAL;
        return -1;
    }
    return events_wait(queue, events, nevents, timeout_ms(timeout));
}

#endif
