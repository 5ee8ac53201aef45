/*
 * origins - of each server that writes to a room, the number of its last entry
 *
 * An entry that could not be acknowledged is added once more, so it may be in the stream
 * twice. Whoever knows how far each origin has come drops the copy.
 *
 * Interface: origins_open() makes an empty table of ORIGINS_MAX places; origins_find()
 * looks an origin up, origins_add() makes a place for it; when all are taken, the origin
 * that has been silent longest goes. Both take the same time however full the table is.
 */
#ifndef ORIGINS_H
#define ORIGINS_H

#include "list.h"

#include <stdint.h>

enum { ORIGINS_MAX = 4096 };
enum { ORIGIN_LEN = 32 }; /* characters: 128 random bits in hex */

struct origin {
    struct list_node by_heard; /* the one silent longest is first */
    struct list_node by_hash;
    char name[ORIGIN_LEN];
    uint64_t last; /* the number of its last entry */
};

struct origins;

/* Returns an empty table; NULL with errno ENOMEM. */
struct origins *origins_open(void);

void origins_close(struct origins *origins);

/* Forgets all of them. */
void origins_clear(struct origins *origins);

/* Returns the origin of this name, which has just been heard of, or NULL. */
struct origin *origins_find(struct origins *origins, const char name[ORIGIN_LEN]);

/* Adds one that is not there yet, with no entry so far: last is 0. It stays until it is
 * the one silent longest. */
struct origin *origins_add(struct origins *origins, const char name[ORIGIN_LEN]);

#endif
