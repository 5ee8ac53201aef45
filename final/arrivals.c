/*
 * arrivals - see arrivals.h. Systems: Linux, macOS and the BSDs.
 */
#include "arrivals.h"
#include "evloop.h"
#include "log.h"
#include "proxy.h"
#include "watched.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MS = 5000 };  /* how long a header may take */
enum { HEADER_READ = 512 }; /* bytes at a time; most headers are shorter */

struct arrival {
    struct watched watched;
    struct arrivals *all;
    int fd;
    struct timeout timeout; /* in all->waiting */
    struct sockaddr_storage from;
    struct endpoint endpoint; /* from as text */
    struct proxy proxy;
};

/* Its memory stays until the batch of events is over, in which it may be named. */
static void arrival_end(struct arrival *arrival)
{
    struct arrivals *all = arrival->all;

    arrival->fd = -1;
    timeout_end(&arrival->timeout);
    timeout_begin(&all->closed, &arrival->timeout, *all->now);
    all->count--;
}

static void arrival_close(struct arrival *arrival, const char *reason)
{
    struct arrivals *all = arrival->all;

    log_connection("refused connection", arrival->endpoint.text, reason);
    evloop_del(all->loop, arrival->fd, EVLOOP_READ);
    close(arrival->fd);
    arrival_end(arrival);
}

/* The header is complete: hands the connection over. */
static void on_header(struct arrival *arrival)
{
    struct sockaddr_storage from =
        arrival->proxy.state == PROXY_ADDRESS ? arrival->proxy.address : arrival->from;
    on_newcomer *next = arrival->all->on_newcomer;
    int fd = arrival->fd;

    evloop_del(arrival->all->loop, fd, EVLOOP_READ);
    arrival_end(arrival);
    next(fd, &from);
}

/* Takes no byte but the header's: looks first, then reads as many as are its own. */
static void on_readable(void *owner, int ready)
{
    struct arrival *arrival = owner;
    char bytes[HEADER_READ];
    ssize_t n;

    (void)ready;
    if (arrival->fd < 0)
        return;
    n = net_recv(arrival->fd, bytes, sizeof bytes, MSG_PEEK);
    if (n > 0)
        n = net_recv(arrival->fd, bytes, proxy_take(&arrival->proxy, bytes, (size_t)n),
                     0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        arrival_close(arrival, n < 0 ? strerror(errno) : "end of file, no PROXY header");
    else if (arrival->proxy.state == PROXY_INVALID)
        arrival_close(arrival, "no PROXY header");
    else if (arrival->proxy.state != PROXY_MORE)
        on_header(arrival);
}

void arrivals_open(struct arrivals *arrivals)
{
    timeouts_init(&arrivals->waiting, HEADER_MS);
    timeouts_init(&arrivals->closed, 0);
}

void arrivals_add(struct arrivals *arrivals, int fd, const struct sockaddr_storage *from)
{
    struct arrival *arrival = calloc(1, sizeof *arrival);
    struct endpoint endpoint = endpoint_make(from);

    if (arrival == NULL || evloop_add(arrivals->loop, fd, EVLOOP_READ, arrival) < 0) {
        log_connection("refused connection", endpoint.text, strerror(errno));
        free(arrival);
        close(fd);
        return;
    }
    arrival->watched.on_event = on_readable;
    arrival->all = arrivals;
    arrival->fd = fd;
    arrival->from = *from;
    arrival->endpoint = endpoint;
    timeout_begin(&arrivals->waiting, &arrival->timeout, *arrivals->now);
    arrivals->count++;
}

int64_t arrivals_next(const struct arrivals *arrivals)
{
    return timeouts_next(&arrivals->waiting);
}

static struct arrival *arrival_of(struct timeout *timeout)
{
    return timeout == NULL ? NULL : LIST_OWNER(timeout, struct arrival, timeout);
}

bool arrivals_make_room(struct arrivals *arrivals)
{
    struct arrival *oldest = arrival_of(timeouts_first(&arrivals->waiting));

    if (oldest == NULL)
        return false;
    on_readable(oldest, EVLOOP_READ); /* its header may be there, unread */
    if (oldest->fd >= 0)
        arrival_close(oldest, "no PROXY header, and its descriptor is needed");
    return true;
}

static void arrivals_free(struct arrivals *arrivals)
{
    struct arrival *arrival;

    while ((arrival = arrival_of(timeouts_first(&arrivals->closed))) != NULL) {
        timeout_end(&arrival->timeout);
        free(arrival);
    }
}

void arrivals_check(struct arrivals *arrivals, int64_t now)
{
    struct arrival *arrival;

    while ((arrival = arrival_of(timeouts_due(&arrivals->waiting, now))) != NULL)
        arrival_close(arrival, "no PROXY header within 5 s");
    arrivals_free(arrivals);
}

void arrivals_close(struct arrivals *arrivals)
{
    struct arrival *arrival;

    while ((arrival = arrival_of(timeouts_first(&arrivals->waiting))) != NULL)
        arrival_close(arrival, "server stopping");
    arrivals_free(arrivals);
}
