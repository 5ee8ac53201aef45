/*
 * chatload.h - what the parts of the load tester share
 *
 *   chatload.c         options, the tables of dialects and modes, main
 *   chatload_conn.c    one connection: opening, joining, sending, receiving
 *   chatload_crowd.c   modes hold and churn: many connections
 *   chatload_fanout.c  modes broadcast, latency and slow: many deliveries, all checked
 *   chatload_events.c  mode events: what an event costs, with no server at all
 *   chatload_meter.c   clocks, the server's CPU time and memory, progress, failure
 *
 * Times are in nanoseconds of a monotonic clock, lengths in bytes.
 */
#ifndef CHATLOAD_H
#define CHATLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* What a connection has to say and hear before it is served. */
struct joining {
    const char *request; /* what to send first */
    int lines;           /* how many lines the answer has */
    const char *last;    /* how the last of them begins */
};

/*
 * How one kind of server is talked to. In the texts, # stands for the length of a message
 * and @ for the number of receivers.
 */
struct dialect {
    const char *name;
    struct joining member;    /* a receiver */
    struct joining publisher; /* a sender if members may not send; else request is NULL */
    const char *send_before;  /* what surrounds a message sent to the server */
    const char *send_after;
    const char *receive_before; /* what surrounds it when it comes back */
    const char *receive_after;
    const char *receipt;     /* what a publisher is told for each message */
    const char *ping, *pong; /* what the server may ask at any time, and the answer */
    bool same_order;         /* does it promise the same order to all receivers? */
};

enum { BYTES_MAX = 1024 }; /* of a message: the assignment's limit */

struct load;

struct mode {
    const char *name;
    void (*run)(struct load *load);
    size_t stalled;  /* how many clients never read, without -k */
    bool fans_out;   /* the window counts messages, not connects */
    bool serverless; /* needs no port */
};

struct options {
    const struct mode *mode;
    const struct dialect *dialect;
    const char *prefix; /* instead of the dialect's receive_before, if not NULL */
    const char *host, *port;
    size_t clients, senders;  /* connections that receive; how many of them send */
    size_t stalled, flooders; /* further ones: that never read, that never stop sending */
    size_t bytes;             /* of a message */
    size_t window;            /* messages or connects in flight */
    size_t messages, warmup;  /* measured; sent before measuring */
    size_t rate;              /* messages per second */
    uint64_t idle, deadline;  /* nanoseconds */
    pid_t pid;                /* of the server; 0: unknown */
};

/* One connection; chatload_conn.c. */
struct conn {
    int fd;
    int interest;
    size_t number;                 /* in order of opening, from 0: names it in messages */
    const struct joining *joining; /* NULL: it has joined */
    int line;                      /* of the answer, from 1 */
    size_t column;                 /* in that line, from 0 */
    uint64_t opened;               /* when */
    char *out;                     /* bytes that wait to be sent */
    size_t out_len, out_room;
};

/* What every mode needs. Each has its own state besides. */
struct load {
    struct options options;
    struct sockaddr_storage address; /* of the server */
    socklen_t address_len;
    int loop;
};

/* ---- chatload_conn.c ---- */

enum conn_kind { MEMBER, STALLED, PUBLISHER };

/* Starts to connect and to join. The number chooses the source address. */
void conn_open(struct load *load, struct conn *conn, enum conn_kind kind, size_t number);

/* Closes the connection and frees what it holds. */
void conn_close(struct load *load, struct conn *conn);

/* Appends bytes to what waits to be sent. */
void conn_write(struct conn *conn, const char *bytes, size_t len);

/* Sends what waits, as much as the socket takes; the rest goes once it is writable. */
void conn_flush(struct load *load, struct conn *conn);

/* Stops watching the connection: whatever the server sends stays unread. */
void conn_stall(struct load *load, struct conn *conn);

/* Receives up to room bytes. Returns how many; 0 if none have come yet. */
size_t conn_read(struct conn *conn, char *bytes, size_t room);

/* Reads the answer of a joining connection. Returns true when it has joined. */
bool conn_join(struct conn *conn);

/* Reads from a connection that should be sent nothing: anything but a ping fails. */
void conn_expect_nothing(struct load *load, struct conn *conn);

/* Answers a ping at the start of bytes. Returns its length, 0 if there is none. */
size_t conn_ping(struct load *load, struct conn *conn, const char *bytes, size_t len);

/* Fails if the connection has been joining for longer than the deadline. */
void conn_check_deadline(const struct load *load, const struct conn *conn, uint64_t now);

/* ---- chatload_crowd.c ---- */

/*
 * Opens total connections of a kind, at most a window of them joining at a time, and
 * returns once all have joined. With churn each is closed as soon as it has joined, and
 * conns needs room for one window only; otherwise it needs room for all.
 */
void crowd_open(struct load *load, struct conn *conns, enum conn_kind kind, size_t total,
                size_t first, bool churn);

void mode_hold(struct load *load);
void mode_churn(struct load *load);

/* ---- chatload_fanout.c ---- */

void mode_broadcast(struct load *load); /* slow is the same with stalled clients */
void mode_latency(struct load *load);

/* ---- chatload_events.c ---- */

void mode_events(struct load *load);

/* ---- chatload_meter.c ---- */

enum { SECOND = 1000000000 };

/* What has been used up to one moment. */
struct meter {
    uint64_t wall;       /* the time */
    uint64_t own_cpu;    /* this process's CPU time */
    uint64_t server_cpu; /* the server's, all threads; 0 without options.pid */
};

uint64_t clock_ns(void);

/* Reads the meters. Returns what was used since the earlier reading, if one is given. */
struct meter meter_read(const struct load *load, const struct meter *before);

/*
 * Returns what the server's /proc/PID/file says after key, in bytes; -1 where the system
 * does not tell.
 */
int64_t meter_memory(const struct load *load, const char *file, const char *key);

/*
 * Returns how many bytes of memory the whole kernel holds in objects, sockets included;
 * -1 where the system does not tell.
 */
int64_t meter_kernel_memory(void);

/* Shows on a terminal, a few times a second, how far the work has got. */
void progress(const struct load *load, const char *what, uint64_t done, uint64_t total);

/* Ends the program: exit code 1 and one line. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Like fail(), with errno's text added. */
_Noreturn void fail_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum { QUOTE_MAX = 40, QUOTED_SIZE = 4 * QUOTE_MAX + 6 };

/* Puts the first bytes into text, quoted and printable. Returns text. */
const char *quote(char text[QUOTED_SIZE], const char *bytes, size_t len);

/* calloc(3), or the end of the program. */
void *allocate(size_t count, size_t size);

#endif
