/*
 * chatload_crowd.c - modes hold and churn of the load tester: many connections
 */
#include "../../final/evloop.h"
#include "chatload.h"

#include <stdio.h>
#include <stdlib.h>

enum { TICK_MS = 100 };     /* how often deadlines are checked */
enum { CONNECTS_MAX = 32 }; /* in flight, where the window counts something else */

struct crowd {
    struct load *load;
    struct conn *conns;
    enum conn_kind kind;
    size_t first;                 /* number of the first */
    size_t total, opened, joined; /* how many there shall be, and how many there are */
    size_t slots;                 /* used in conns */
    bool churn;
};

static void crowd_open_next(struct crowd *crowd, struct conn *conn)
{
    conn_open(crowd->load, conn, crowd->kind, crowd->first + crowd->opened);
    crowd->opened++;
}

/* A connection has joined, so the next one may come. */
static void on_joined(struct crowd *crowd, struct conn *conn)
{
    crowd->joined++;
    if (crowd->kind == STALLED)
        conn_stall(crowd->load, conn);
    if (crowd->churn)
        conn_close(crowd->load, conn);
    if (crowd->opened < crowd->total)
        crowd_open_next(crowd, crowd->churn ? conn : &crowd->conns[crowd->slots++]);
}

static void on_event(struct crowd *crowd, struct conn *conn, int ready)
{
    if (ready & EVLOOP_WRITE)
        conn_flush(crowd->load, conn);
    if (!(ready & EVLOOP_READ))
        return;
    if (!conn->joining)
        conn_expect_nothing(crowd->load, conn);
    else if (conn_join(conn))
        on_joined(crowd, conn);
}

/* Handles one batch of events. */
static void crowd_wait(struct crowd *crowd)
{
    struct evloop_event events[EVLOOP_BATCH];
    int n = evloop_wait(crowd->load->loop, events, EVLOOP_BATCH, TICK_MS);

    if (n < 0)
        fail_errno("evloop_wait");
    for (int i = 0; i < n; i++)
        on_event(crowd, events[i].data, events[i].ready);
}

static void crowd_check_deadlines(const struct crowd *crowd)
{
    uint64_t now = clock_ns();

    for (size_t i = 0; i < crowd->slots; i++)
        conn_check_deadline(crowd->load, &crowd->conns[i], now);
}

void crowd_open(struct load *load, struct conn *conns, enum conn_kind kind, size_t total,
                size_t first, bool churn)
{
    struct crowd crowd = {.load = load,
                          .conns = conns,
                          .kind = kind,
                          .first = first,
                          .total = total,
                          .churn = churn};
    size_t window = load->options.mode->fans_out ? CONNECTS_MAX : load->options.window;
    uint64_t checked = clock_ns();

    while (crowd.opened < total && crowd.opened < window)
        crowd_open_next(&crowd, &conns[crowd.slots++]);
    while (crowd.joined < total) {
        crowd_wait(&crowd);
        if (clock_ns() - checked > (uint64_t)TICK_MS * (SECOND / 1000)) {
            crowd_check_deadlines(&crowd);
            checked = clock_ns();
        }
        progress(load, "connections", crowd.joined, total);
    }
}

/* Returns how many bytes of its own memory the server holds; -1 if nobody knows. */
static int64_t server_memory(const struct load *load)
{
    return meter_memory(load, "smaps_rollup", "Anonymous:");
}

static void report(const struct load *load, size_t total, const struct meter *used)
{
    printf("chatload mode=%s dialect=%s connections=%zu window=%zu seconds=%.6f "
           "connections_per_second=%.0f",
           load->options.mode->name, load->options.dialect->name, total,
           load->options.window, (double)used->wall / SECOND,
           (double)total * SECOND / (double)used->wall);
    printf(" tester_cpu_ns_per_connection=%.0f", (double)used->own_cpu / (double)total);
    if (load->options.pid)
        printf(" server_cpu_ns_per_connection=%.0f",
               (double)used->server_cpu / (double)total);
}

/* Opens them all; reports what that took, and what the last tenth of them took. */
static void hold_open(struct load *load, struct conn *conns)
{
    size_t total = load->options.clients, last = (total + 9) / 10;
    struct meter start = meter_read(load, NULL), late, used;

    crowd_open(load, conns, MEMBER, total - last, 0, false);
    late = meter_read(load, NULL);
    crowd_open(load, conns + total - last, MEMBER, last, total - last, false);
    used = meter_read(load, &start);
    late = meter_read(load, &late);
    report(load, total, &used);
    if (load->options.pid)
        printf(" server_cpu_ns_per_late_connection=%.0f",
               (double)late.server_cpu / (double)last);
}

/* Opens them all, holds them, closes them. The kernel's memory counts both ends. */
void mode_hold(struct load *load)
{
    size_t total = load->options.clients;
    struct conn *conns = allocate(total, sizeof *conns);
    struct crowd crowd = {.load = load};
    int64_t memory = server_memory(load), kernel = meter_kernel_memory();
    struct meter start, holding;

    hold_open(load, conns);
    crowd_wait(&crowd); /* lets the server finish what follows the last greeting */
    start = meter_read(load, NULL);
    while (clock_ns() - start.wall < load->options.idle)
        crowd_wait(&crowd);
    holding = meter_read(load, &start);
    printf(" idle_seconds=%.3f", (double)holding.wall / SECOND);
    if (load->options.pid)
        printf(" server_cpu_us_idle=%.0f", (double)holding.server_cpu / 1000);
    if (memory >= 0)
        printf(" server_bytes_per_connection=%.0f",
               (double)(server_memory(load) - memory) / (double)total);
    if (kernel >= 0)
        printf(" kernel_bytes_per_connection=%.0f",
               (double)(meter_kernel_memory() - kernel) / (double)total);
    printf("\n");
    for (size_t i = 0; i < total; i++)
        conn_close(load, &conns[i]);
    free(conns);
}

/* Opens one after another and closes each as soon as it is greeted. */
void mode_churn(struct load *load)
{
    struct conn *conns = allocate(load->options.window, sizeof *conns);
    struct meter start = meter_read(load, NULL);
    struct meter used;

    crowd_open(load, conns, MEMBER, load->options.messages, 0, true);
    used = meter_read(load, &start);
    report(load, load->options.messages, &used);
    printf("\n");
    free(conns);
}
