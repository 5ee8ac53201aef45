/*
 * origins - see origins.h. Systems: any.
 */
#include "origins.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024 };

struct origins {
    struct origin places[ORIGINS_MAX];
    size_t taken; /* of the places, from the first on */
    struct list_node by_heard;
    struct list_node buckets[BUCKETS];
};

/* The names are random, so any mixture of their characters spreads them evenly. */
static struct list_node *bucket_of(struct origins *origins, const char *name)
{
    unsigned hash = 0;

    for (int i = 0; i < ORIGIN_LEN; i++)
        hash = hash * 31 + (unsigned char)name[i];
    return &origins->buckets[hash % BUCKETS];
}

void origins_clear(struct origins *origins)
{
    origins->taken = 0;
    list_init(&origins->by_heard);
    for (size_t i = 0; i < BUCKETS; i++)
        list_init(&origins->buckets[i]);
}

struct origins *origins_open(void)
{
    struct origins *origins = malloc(sizeof *origins);

    if (origins != NULL)
        origins_clear(origins);
    return origins;
}

void origins_close(struct origins *origins)
{
    free(origins);
}

struct origin *origins_find(struct origins *origins, const char name[ORIGIN_LEN])
{
    struct list_node *bucket = bucket_of(origins, name);

    for (struct list_node *node = bucket->next; node != bucket; node = node->next) {
        struct origin *origin = LIST_OWNER(node, struct origin, by_hash);
        if (memcmp(origin->name, name, ORIGIN_LEN) == 0) {
            list_remove(&origin->by_heard);
            list_append(&origins->by_heard, &origin->by_heard);
            return origin;
        }
    }
    return NULL;
}

/* Returns a place that is free, if need be after somebody had to leave it. */
static struct origin *place_find(struct origins *origins)
{
    struct origin *origin;

    if (origins->taken < ORIGINS_MAX)
        return &origins->places[origins->taken++];
    origin = LIST_OWNER(origins->by_heard.next, struct origin, by_heard);
    list_remove(&origin->by_heard);
    list_remove(&origin->by_hash);
    return origin;
}

struct origin *origins_add(struct origins *origins, const char name[ORIGIN_LEN])
{
    struct origin *origin = place_find(origins);

    memcpy(origin->name, name, ORIGIN_LEN);
    origin->last = 0;
    list_append(&origins->by_heard, &origin->by_heard);
    list_append(bucket_of(origins, name), &origin->by_hash);
    return origin;
}
