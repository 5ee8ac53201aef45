/*
 * paste_test.c - final/paste.c: keys of which pieces are lost, followed to their end
 *
 * What is pasted must be told from what is typed, whichever pieces are lost. Pasted text
 * is made of "p" here, typed text of "t", with a piece of a mark in it now and then.
 */
#include "../../final/paste.h"
#include "check.h"

#include <string.h>

enum { KEYS_MAX = 200, ROUNDS = 20000 };

static size_t random_below(size_t n)
{
    static unsigned state = 1;

    state = state * 1664525 + 1013904223;
    return (state >> 8) % n;
}

/* Fills keys with text and marks. Returns how many bytes they are. */
static size_t keys_make(char keys[KEYS_MAX])
{
    static const char *const marks[] = {"\x1b[200~", "\x1b[201~"};
    bool pasting = false;
    size_t len = 0;

    while (len + 2 * PASTE_MARK_LEN < KEYS_MAX) {
        size_t what = random_below(8);
        if (what == 0) {
            memcpy(keys + len, marks[pasting], PASTE_MARK_LEN);
            len += PASTE_MARK_LEN;
            pasting = !pasting;
        } else if (what == 1) { /* it only looks like a mark */
            size_t part_len = 1 + random_below(PASTE_MARK_LEN - 1);
            memcpy(keys + len, marks[pasting], part_len);
            len += part_len;
            keys[len++] = pasting ? 'p' : 't';
        } else {
            keys[len++] = pasting ? 'p' : 't';
        }
    }
    return len;
}

/* Every letter of what was kept has to be what it looks like. */
static void kept_check(const char *kept, size_t len)
{
    struct paste paste = {0};

    for (size_t i = 0; i < len; i++) {
        paste_follow(&paste, kept[i]);
        if (kept[i] == 'p' || kept[i] == 't')
            CHECK_EQUAL(paste.pasting, kept[i] == 'p');
    }
}

static void round_run(void)
{
    char keys[KEYS_MAX], kept[KEYS_MAX * (1 + 2 * PASTE_MARK_LEN)];
    char marks[2 * PASTE_MARK_LEN];
    struct paste seen = {0}, kept_to = {0};
    size_t keys_len = keys_make(keys), kept_len = 0;

    for (size_t at = 0, piece; at < keys_len; at += piece) {
        piece = 1 + random_below(10);
        if (piece > keys_len - at)
            piece = keys_len - at;
        size_t marks_len = paste_bridge(kept_to, seen, marks);
        for (size_t i = 0; i < piece; i++)
            paste_follow(&seen, keys[at + i]);
        if (random_below(2) == 0) {
            kept_len -= kept_to.matched;
            kept_to.matched = 0;
            continue;
        }
        memcpy(kept + kept_len, marks, marks_len);
        memcpy(kept + kept_len + marks_len, keys + at, piece);
        kept_len += marks_len + piece;
        kept_to = seen;
        kept_check(kept, kept_len);
    }
}

static void test_nothing_lost(void)
{
    char marks[2 * PASTE_MARK_LEN];
    struct paste half = {.pasting = true, .matched = 3};

    CHECK(paste_bridge(half, half, marks) == 0);
}

int main(void)
{
    test_nothing_lost();
    for (int round = 0; round < ROUNDS; round++)
        round_run();
    return checks_end();
}
