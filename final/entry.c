/*
 * entry - see entry.h. Systems: any.
 */
#include "entry.h"

#include <stdlib.h>
#include <string.h>

/*
 * Where an entry's parts are in the reply: an array of streams, in which each is an array
 * of a name and of the array of its entries; an entry is an array of its ID and of the
 * array of its fields' names and values.
 */
enum { DEPTH_ID = 4, DEPTH_FIELDS = 5 };

static bool text_is(struct slice text, char c)
{
    return text.len == 1 && text.bytes[0] == c;
}

static bool origin_take(struct entry *entry, struct slice text)
{
    if (text.len != ORIGIN_LEN)
        return false;
    memcpy(entry->origin, text.bytes, ORIGIN_LEN);
    return true;
}

/* A number of at most 18 digits, which no origin will ever count up to. */
static bool n_take(struct entry *entry, struct slice text)
{
    entry->n = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.bytes[i] < '0' || text.bytes[i] > '9')
            return false;
        entry->n = 10 * entry->n + (uint64_t)(text.bytes[i] - '0');
    }
    return text.len > 0 && text.len <= 18;
}

/* Half a message would mix with the next one. */
static bool messages_take(struct entry *entry, struct slice text)
{
    entry->messages = text;
    return text.len == 0 || text.bytes[text.len - 1] == '\n';
}

/* The at-th name or value: has it the form of ours? */
static bool field_take(struct entry *entry, const struct resp_item *item)
{
    if (item->type != RESP_BULK)
        return false;
    switch (entry->at) {
    case 0:
        return text_is(item->text, 'o');
    case 1:
        return origin_take(entry, item->text);
    case 2:
        return text_is(item->text, 'n');
    case 3:
        return n_take(entry, item->text);
    case 4:
        return text_is(item->text, 'd');
    default:
        return messages_take(entry, item->text);
    }
}

/* Adds up lengths, however large somebody made them. */
static void len_add(struct entry *entry, const struct resp_item *item)
{
    uint64_t len = item->type == RESP_LONG ? (uint64_t)item->number : item->text.len;

    len += entry->len;
    entry->len = len < UINT32_MAX ? (size_t)len : UINT32_MAX;
}

bool entry_take(struct entry *entry, const struct resp_item *item)
{
    if (item->depth == DEPTH_ID && item->type == RESP_BULK) {
        entry->id_len = item->text.len <= ENTRY_ID_MAX ? item->text.len : 0;
        memcpy(entry->id, item->text.bytes, entry->id_len);
    } else if (item->depth == DEPTH_ID) { /* the array of fields */
        entry->count = item->type == RESP_ARRAY ? item->number : 0;
        entry->at = 0;
        entry->len = 0;
        entry->ours = entry->count == 6;
        return entry->count == 0;
    } else if (item->depth == DEPTH_FIELDS) {
        entry->ours = entry->ours && field_take(entry, item);
        len_add(entry, item);
        return ++entry->at == entry->count;
    }
    return false;
}

int trail_open(struct trail *trail)
{
    *trail = (struct trail){.lens = malloc(TRAIL_MAX * sizeof trail->lens[0])};
    return trail->lens == NULL ? -1 : 0;
}

static void trail_drop(struct trail *trail)
{
    trail->sum -= trail->lens[trail->first];
    trail->first = (trail->first + 1) % TRAIL_MAX;
    trail->count--;
    trail->full = true;
}

void trail_add(struct trail *trail, size_t len)
{
    if (trail->count == TRAIL_MAX)
        trail_drop(trail);
    trail->lens[(trail->first + trail->count++) % TRAIL_MAX] = (uint32_t)len;
    trail->sum += len;
    while (trail->sum > TRAIL_BYTES && trail->count > 1)
        trail_drop(trail);
}

size_t trail_count(const struct trail *trail)
{
    return trail->full ? trail->count : TRAIL_MAX;
}
