/*
 * addresses - see addresses.h. Systems: any with sockets.
 */
#include "addresses.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PLACES_MIN = 64 };

/* A number that nobody outside knows: the time in nanoseconds, and where memory lies. */
static uint64_t seed_make(const void *memory)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec + (uintptr_t)memory;
}

int addresses_open(struct addresses *table, int64_t remember_ms)
{
    *table = (struct addresses){.places_count = PLACES_MIN};
    timeouts_init(&table->empty, remember_ms);
    table->places = calloc(PLACES_MIN, sizeof *table->places);
    table->seed = seed_make(table->places);
    return table->places == NULL ? -1 : 0;
}

void addresses_close(struct addresses *table)
{
    for (size_t i = 0; i < table->places_count; i++) {
        while (table->places[i].first != NULL) {
            struct address *address = table->places[i].first;
            table->places[i].first = address->next;
            free(address);
        }
    }
    free(table->places);
}

/* Two numbers that are the same for the same host only. */
static void address_key(const struct sockaddr_storage *address, uint64_t key[2])
{
    const struct sockaddr_in6 *v6 = (const void *)address;
    const struct sockaddr_in *v4 = (const void *)address;

    key[0] = address->ss_family == AF_INET6;
    key[1] = 0;
    if (key[0])
        memcpy(&key[1], &v6->sin6_addr, 8); /* the upper half: the network, a /64 */
    else
        memcpy(&key[1], &v4->sin_addr, sizeof v4->sin_addr);
}

/* The address's place in the table: splitmix64's finish mixes all bits with the seed. */
static struct addresses_place *place_of(const struct addresses *table,
                                        const uint64_t key[2])
{
    uint64_t mix = (key[1] ^ table->seed) + 0x9e3779b97f4a7c15U * (key[0] + 1);

    mix = (mix ^ (mix >> 30)) * 0xbf58476d1ce4e5b9U;
    mix = (mix ^ (mix >> 27)) * 0x94d049bb133111ebU;
    return &table->places[(mix ^ (mix >> 31)) & (table->places_count - 1)];
}

/* Doubles the table. If there is no memory for that, it stays as it is, only slower. */
static void addresses_grow(struct addresses *table)
{
    struct addresses old = *table;
    struct addresses_place *places = calloc(2 * old.places_count, sizeof *places);

    if (places == NULL)
        return;
    table->places = places;
    table->places_count = 2 * old.places_count;
    for (size_t i = 0; i < old.places_count; i++) {
        while (old.places[i].first != NULL) {
            struct address *address = old.places[i].first;
            struct addresses_place *place = place_of(table, address->key);
            old.places[i].first = address->next;
            address->next = place->first;
            place->first = address;
        }
    }
    free(old.places);
}

/* Returns the address with this key; a new one without clients if there was none. */
static struct address *address_find(struct addresses *table, const uint64_t key[2])
{
    struct addresses_place *place = place_of(table, key);
    struct address *address;

    for (address = place->first; address != NULL; address = address->next)
        if (address->key[0] == key[0] && address->key[1] == key[1])
            return address;
    if ((address = calloc(1, sizeof *address)) == NULL)
        return NULL;
    address->key[0] = key[0];
    address->key[1] = key[1];
    address->next = place->first;
    place->first = address;
    timeout_begin(&table->empty, &address->empty, 0);
    if (++table->count > table->places_count)
        addresses_grow(table);
    return address;
}

struct address *addresses_enter(struct addresses *table,
                                const struct sockaddr_storage *address, size_t max)
{
    struct address *found;
    uint64_t key[2];

    address_key(address, key);
    if ((found = address_find(table, key)) == NULL)
        return NULL;
    if (found->clients >= max) {
        errno = EUSERS;
        return NULL;
    }
    if (found->clients++ == 0)
        timeout_end(&found->empty);
    return found;
}

static void address_forget(struct addresses *table, struct address *address)
{
    struct address **at = &place_of(table, address->key)->first;

    while (*at != address)
        at = &(*at)->next;
    *at = address->next;
    free(address);
    table->count--;
}

void addresses_leave(struct addresses *table, struct address *address, bool remember,
                     int64_t now)
{
    if (--address->clients > 0)
        return;
    if (remember)
        timeout_begin(&table->empty, &address->empty, now);
    else
        address_forget(table, address);
}

void addresses_check(struct addresses *table, int64_t now)
{
    struct timeout *due;

    while ((due = timeouts_due(&table->empty, now)) != NULL) {
        timeout_end(due);
        address_forget(table, LIST_OWNER(due, struct address, empty));
    }
}
