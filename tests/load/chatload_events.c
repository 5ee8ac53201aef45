/*
 * chatload_events.c - mode events of the load tester: what an event costs
 *
 * One socket has something to read; options.clients others are idle. How long does it
 * take to find the one, with evloop.h (epoll or kqueue) and with poll(2)? No server takes
 * part; the time is this process's own CPU time, including the write that makes the
 * socket readable and the read that empties it.
 */
#include "../../final/evloop.h"
#include "chatload.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { BUSY = 0, WRITER = 1, IDLE = 2 }; /* places in an array of descriptors */

/* Waits for one event in one of two ways; the first descriptor is the readable one. */
typedef void wait_once(int loop, struct pollfd *fds, size_t count);

static void wait_evloop(int loop, struct pollfd *fds, size_t count)
{
    struct evloop_event event;

    (void)count;
    if (evloop_wait(loop, &event, 1, -1) != 1 || event.data != &fds[BUSY])
        fail("evloop_wait did not report the readable descriptor");
}

static void wait_poll(int loop, struct pollfd *fds, size_t count)
{
    (void)loop;
    if (poll(fds, (nfds_t)count, -1) != 1 || !fds[BUSY].revents)
        fail("poll did not report the readable descriptor");
}

/* Both ends of a pair are idle while nobody writes. */
static struct pollfd *fds_open(size_t count)
{
    struct pollfd *fds = allocate(count + 1, sizeof *fds);

    for (size_t i = 0; i < count; i += 2) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
            fail_errno("socketpair");
        fds[i] = (struct pollfd){.fd = pair[0], .events = POLLIN};
        fds[i + 1] = (struct pollfd){.fd = pair[1], .events = POLLIN};
    }
    return fds;
}

/* Returns nanoseconds of CPU time per event. */
static double event_cost(const struct load *load, struct pollfd *fds, size_t count,
                         wait_once *wait)
{
    struct meter start = meter_read(load, NULL), used;
    size_t events = load->options.messages;
    char byte = 'x';

    for (size_t i = 0; i < events; i++) {
        if (write(fds[WRITER].fd, &byte, 1) != 1)
            fail_errno("write");
        wait(load->loop, fds, count);
        if (read(fds[BUSY].fd, &byte, 1) != 1)
            fail_errno("read");
        progress(load, "events", i, events);
    }
    used = meter_read(load, &start);
    return (double)used.own_cpu / (double)events;
}

void mode_events(struct load *load)
{
    size_t count = IDLE + load->options.clients;
    struct pollfd *fds = fds_open(count);
    double evloop_ns, poll_ns;

    for (size_t i = 0; i < count; i++)
        if (evloop_add(load->loop, fds[i].fd, EVLOOP_READ, &fds[i]) < 0)
            fail_errno("evloop_add");
    evloop_ns = event_cost(load, fds, count, wait_evloop);
    poll_ns = event_cost(load, fds, count, wait_poll);
    printf("chatload mode=events idle=%zu events=%zu evloop_ns_per_event=%.1f "
           "poll_ns_per_event=%.1f\n",
           load->options.clients, load->options.messages, evloop_ns, poll_ns);
    for (size_t i = 0; i < count; i++)
        evloop_del(load->loop, fds[i].fd, EVLOOP_READ);
    for (size_t i = 0; i < count + count % 2; i++)
        close(fds[i].fd);
    free(fds);
}
