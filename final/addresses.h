/*
 * addresses - counts how many clients have come from each address
 *
 * A hash table that grows with them, so that all of it takes the same time however many
 * there are. Whoever has an IPv6 network (a /64) has all of its addresses: these count
 * as one.
 *
 * Interface: addresses_open(); addresses_enter() and addresses_leave() for each client;
 * addresses_close(). No sockets: see chatsrv.c.
 */
#ifndef ADDRESSES_H
#define ADDRESSES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct address {
    struct address *next; /* in the same place of the table */
    uint64_t key[2];      /* IPv4: the address; IPv6: the network; see address_key() */
    size_t clients;
};

/* A place in the table: all addresses whose hash leads there. */
struct addresses_place {
    struct address *first;
};

struct addresses {
    struct addresses_place *places;
    size_t places_count; /* a power of two */
    size_t count;        /* addresses in the table */
    uint64_t seed;       /* so that nobody can choose addresses that meet in one place */
};

/* Makes an empty table. Returns 0; -1 with errno ENOMEM. */
int addresses_open(struct addresses *table);

void addresses_close(struct addresses *table);

/*
 * Counts one more client of an IPv4 or IPv6 address. Returns the address, for
 * addresses_leave(); NULL with errno EUSERS if it has max clients already, or ENOMEM.
 */
struct address *addresses_enter(struct addresses *table,
                                const struct sockaddr_storage *address, size_t max);

/* Counts one client fewer. With the last one the address is forgotten. */
void addresses_leave(struct addresses *table, struct address *address);

#endif
