/*
 * addresses - counts how many clients have come from each address
 *
 * A hash table that grows with them, so that all of it takes the same time however many
 * there are. Whoever has an IPv6 network (a /64) has all of its addresses: these count
 * as one. An address can be remembered for a while when its last client has left, so
 * that the next one begins where that one ended.
 *
 * Interface: addresses_open(); addresses_enter() and addresses_leave() for each client;
 * addresses_check() now and then; addresses_close(). Pure: the caller has the clock, in
 * milliseconds. No sockets: see chatsrv.c.
 */
#ifndef ADDRESSES_H
#define ADDRESSES_H

#include "timeouts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct address {
    struct address *next; /* in the same place of the table */
    uint64_t key[2];      /* IPv4: the address; IPv6: the network; see address_key() */
    size_t clients;
    struct timeout empty; /* in table.empty, if it has no clients */
    int64_t rate_full_at; /* the caller's, 0 at first: see rate.h */
};

/* A place in the table: all addresses whose hash leads there. */
struct addresses_place {
    struct address *first;
};

struct addresses {
    struct addresses_place *places;
    size_t places_count;   /* a power of two */
    size_t count;          /* addresses in the table */
    struct timeouts empty; /* those without clients that are remembered */
    uint64_t seed;         /* so that nobody can choose who meets in one place */
};

/*
 * Makes an empty table, which remembers for so many milliseconds. Returns 0; -1 with
 * errno ENOMEM.
 */
int addresses_open(struct addresses *table, int64_t remember_ms);

void addresses_close(struct addresses *table);

/*
 * Counts one more client of an IPv4 or IPv6 address. Returns the address, for
 * addresses_leave(); NULL with errno EUSERS if it has max clients already, or ENOMEM.
 */
struct address *addresses_enter(struct addresses *table,
                                const struct sockaddr_storage *address, size_t max);

/* Counts one client fewer. After the last one the address is remembered, or forgotten. */
void addresses_leave(struct addresses *table, struct address *address, bool remember,
                     int64_t now);

/* Forgets those that have been remembered long enough. */
void addresses_check(struct addresses *table, int64_t now);

#endif
