/*
 * redis - a connection to a Redis server that never blocks and comes back by itself
 *
 * Interface: redis_lookup() once, at the start. Then each connection: redis_open();
 * redis_turn() dials when it is time to; redis_on_event() when the loop names its socket;
 * after both, redis_next() until it returns 0. Once the connection is ready, that is
 * connected and through with AUTH: redis_command(), and then redis_send(). When it is
 * lost, for whatever reason, redis_lose() closes it, and it is dialled again after a
 * pause: 0.1 s at first, doubled each time up to 5 s. Call redis_is_well() when all
 * works: the next pause is then 0.1 s again.
 */
#ifndef REDIS_H
#define REDIS_H

#include "resp.h"
#include "url.h"
#include "watched.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { REDIS_ADDRESSES_MAX = 8 };      /* that one host name may stand for */
enum { REDIS_READ_MAX = 64 * 1024 };   /* bytes per event, then others have their turn */
enum { REDIS_SILENCE_MS = 10 * 1000 }; /* without a byte while one is due: it is lost */
enum { REDIS_REASON_MAX = 513 };       /* bytes: 128 in their visible form, NUL */

/* Where and as whom. Both of a room's connections share it. */
struct redis_server {
    struct url url;
    struct sockaddr_storage addresses[REDIS_ADDRESSES_MAX];
    size_t count;
    struct sockaddr_storage moved; /* where MOVED has sent us; ss_family 0: nowhere */
};

enum redis_state {
    REDIS_CLOSED,  /* until it is dialled again */
    REDIS_DIALING, /* connect(2) is under way */
    REDIS_AUTH,    /* the password has been sent */
    REDIS_READY
};

struct redis {
    struct watched watched; /* the caller says what is to be done with its events */
    struct redis_server *server;
    int loop, fd;
    int interest; /* what the loop watches fd for */
    enum redis_state state;
    size_t address;   /* the next to dial, or the one in use */
    size_t failed;    /* how many in a row could not be connected to */
    int64_t dial_at;  /* when to dial again, */
    int64_t pause_ms; /* and how long the next pause will be */
    int64_t heard;    /* when a byte last came or went, or dialling began */
    int awaited;      /* replies still to come */
    bool readable;    /* the loop has said so, and nothing has been read since */
    char *out;        /* commands that wait to be sent: */
    size_t out_room, out_len, out_sent;
    char *in;           /* what was read last, */
    struct slice input; /* and what of it is still to be looked at */
    struct resp resp;
    bool lost;                     /* since the caller last looked and set it to false */
    char reason[REDIS_REASON_MAX]; /* why it was lost, printable, */
    bool refused;                  /* and whether trying again is likely to be in vain */
};

/* Looks up the URL's host. This may block. Returns NULL, or in words what is wrong. */
const char *redis_lookup(struct redis_server *server);

/*
 * Makes a connection that is to be dialled at once; out_room bounds the commands that
 * wait to be sent, in bytes. Returns 0; -1 with errno ENOMEM.
 */
int redis_open(struct redis *redis, struct redis_server *server, int loop,
               size_t out_room);

/* Closes it, and releases its memory. */
void redis_close(struct redis *redis);

/* Dials if that is due; gives up a connection that has been silent for too long. */
void redis_turn(struct redis *redis, int64_t now);

/* When redis_turn() has something to do next; INT64_MAX: not before an event. */
int64_t redis_deadline(const struct redis *redis);

/* What the loop reported: sends what waits, and lets redis_next() read. */
void redis_on_event(struct redis *redis, int ready, int64_t now);

/*
 * Takes the next item of a reply (resp.h). Returns 1 and sets item; 0 when there is no
 * more for now, also when the connection has been lost.
 */
int redis_next(struct redis *redis, struct resp_item *item, int64_t now);

/* Puts a command of count words behind what is to be sent. Its reply is awaited. */
void redis_command(struct redis *redis, const struct slice *words, size_t count,
                   int64_t now);

/* Sends that, or as much as there is room for; the rest when the loop says so. */
void redis_send(struct redis *redis, int64_t now);

/* Gives the connection up; it is dialled again after the pause. */
void redis_lose(struct redis *redis, struct slice reason, int64_t now);

/* The next connection goes to the next of the server's addresses. */
void redis_elsewhere(struct redis *redis);

/* Returns how long to wait before trying again, in milliseconds; the next pause will be
 * twice as long. */
int64_t redis_pause(struct redis *redis);

/* A command has been obeyed: the next pause will be short. */
void redis_is_well(struct redis *redis);

/* Notes where a MOVED error sends us. Returns false if it names no numeric address. */
bool redis_move(struct redis_server *server, struct slice error);

#endif
