/*
 * listeners - see listeners.h. Systems: Linux, macOS and the BSDs.
 */
#include "listeners.h"
#include "evloop.h"
#include "log.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { ACCEPT_MAX = 64 };        /* newcomers, then the clients have their turn */
enum { ACCEPT_PAUSE_MS = 1000 }; /* how long to wait for a free descriptor */

static void newcomer_take(const struct listeners *listeners, int fd,
                          const struct sockaddr_storage *from)
{
    if (listeners->arrivals != NULL)
        arrivals_add(listeners->arrivals, fd, from);
    else
        listeners->on_newcomer(fd, from);
}

/* Changes what the loop watches the listeners for. If it fails, a pause begins again. */
static void listeners_watch(struct listeners *listeners, int interest)
{
    listeners->accept_at = interest == 0 ? *listeners->now + ACCEPT_PAUSE_MS : 0;
    for (size_t i = 0; i < listeners->count; i++) {
        struct listener *it = &listeners->listeners[i];
        if (evloop_mod(listeners->loop, it->fd, it->interest, interest, it) == 0)
            it->interest = interest;
        else
            listeners->accept_at = *listeners->now + ACCEPT_PAUSE_MS;
    }
}

/* Makes room for the next one, if an arrival can be spared. */
static bool room_made(const struct listeners *listeners, int error)
{
    return (error == EMFILE || error == ENFILE) && listeners->arrivals != NULL &&
           arrivals_make_room(listeners->arrivals);
}

/*
 * Accepts those who wait, up to a limit. Without a free descriptor they would be
 * reported over and over, so the loop then looks away from the listeners for a while.
 */
static void on_connection(void *owner, int ready)
{
    const struct listener *listener = owner;

    (void)ready;
    for (int i = 0; i < ACCEPT_MAX; i++) {
        struct sockaddr_storage address = {0};
        socklen_t len = sizeof address;
        int fd = accept(listener->fd, (struct sockaddr *)&address, &len);

        if (fd >= 0) {
            newcomer_take(listener->all, fd, &address);
        } else if (errno == EAGAIN || errno == EINTR) {
            return;
        } else if (errno != ECONNABORTED && /* that one has left already */
                   !room_made(listener->all, errno)) {
            log_event("accept: %s; trying again in a second", strerror(errno));
            listeners_watch(listener->all, 0);
            return;
        }
    }
}

void listeners_open(struct listeners *listeners, const char *host, const char *port)
{
    int fds[LISTENERS_MAX];

    listeners->count = net_listen(host, port, fds);
    for (size_t i = 0; i < listeners->count; i++) {
        struct sockaddr_storage address = net_address(fds[i]);
        struct endpoint endpoint = endpoint_make(&address);
        listeners->listeners[i] =
            (struct listener){.watched = {on_connection}, .all = listeners, .fd = fds[i]};
        log_event("listening on %s", endpoint.text);
    }
    listeners_watch(listeners, EVLOOP_READ);
}

void listeners_close(struct listeners *listeners)
{
    listeners_watch(listeners, 0);
    listeners->accept_at = 0;
    while (listeners->count > 0)
        close(listeners->listeners[--listeners->count].fd);
}

int64_t listeners_next(const struct listeners *listeners)
{
    return listeners->accept_at > 0 ? listeners->accept_at : INT64_MAX;
}

void listeners_check(struct listeners *listeners)
{
    if (*listeners->now >= listeners_next(listeners))
        listeners_watch(listeners, EVLOOP_READ);
}
