/*
 * room - one chat that many servers share: a stream in Redis
 *
 * What the clients of all servers say goes through one stream, and each server shows its
 * clients what it reads there, its own clients' words included: so all see the same
 * messages in the same order, and each of them once. While Redis is away, what is said
 * waits here. Where something has been missed for good, that is said aloud: a hole that
 * nobody sees is worse than an end.
 *
 * Interface: room_open(), then room_turn() in every round of the event loop, behind its
 * events. What is said in the room goes to the end of a feed (feed.h). It knows no
 * clients: see chatsrv.c; what is promised and how that is kept: notes/rooms.md.
 */
#ifndef ROOM_H
#define ROOM_H

#include "feed.h"
#include "lines.h" /* struct slice */
#include "url.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ROOM_WAITING_MAX = 1024 * 1024 }; /* bytes: then the room is full */

/* Something has been missed, for this reason; what comes now is a new beginning. */
typedef void room_missed(const char *reason);

struct room;

/*
 * Looks the host up and begins to join; what is said in the room goes to the feed. The
 * loop is an event loop's (evloop.h) and calls what it watches (watched.h); now is the
 * caller's clock, in milliseconds. Ends the program with status 1 on an error. Returns
 * NULL if the URL's host is "": no room. All other functions put up with that.
 */
struct room *room_open(const struct url *url, int loop, struct feed *feed,
                       room_missed *on_missed, const int64_t *now);

/* Leaves the room, wherever it stands. */
void room_close(struct room *room);

/*
 * Does what is due: dials, gives up, adds an entry. Until the room is joined, ends the
 * program with status 1 if that is refused or takes more than 10 s.
 */
void room_turn(struct room *room);

/* When room_turn() has something to do next; INT64_MAX without a room. */
int64_t room_next(const struct room *room);

/* Whether it has been joined, once, so that messages come; true without a room. */
bool room_is_joined(const struct room *room);

/*
 * Takes a message, to be sent to the room as the feed has it: "sender: text", or without
 * a sender (its len is 0) the text alone; and a newline. Returns 0; -1: ENOMEM.
 */
int room_say(struct room *room, struct slice sender, struct slice text);

/* Whether so much waits that nothing more should be said for now. */
bool room_is_full(const struct room *room);

/* How many bytes have been said, and how many of them have come back (or were missed). */
uint64_t room_said(const struct room *room);
uint64_t room_heard(const struct room *room);

#endif
