/*
 * room_test.c - the pure parts of a room: url, entry, origins
 */
#include "../../final/entry.h"
#include "../../final/origins.h"
#include "../../final/url.h"
#include "check.h"

#include <stdlib.h>
#include <string.h>

/* ---- url ---- */

static void check_url(const char *text, const char *user, const char *password,
                      const char *host, const char *port, const char *room)
{
    struct url url;

    CHECK(url_parse(text, &url) == NULL);
    CHECK(strcmp(url.user, user) == 0);
    CHECK(strcmp(url.password, password) == 0);
    CHECK(strcmp(url.host, host) == 0);
    CHECK(strcmp(url.port, port) == 0);
    CHECK(strcmp(url.room, room) == 0);
}

static void check_urls(void)
{
    static const char *const wrong[] = {"",
                                        "redis:/x/y",
                                        "redis://x",
                                        "redis://x/",
                                        "redis:///y",
                                        "redis://:1/y",
                                        "redis://x:/y",
                                        "redis://x:0/y",
                                        "redis://x:65536/y",
                                        "redis://x:123456/y",
                                        "redis://x:+1/y",
                                        "redis://[::1/y",
                                        "redis://[]/y",
                                        "redis://[::1]6379/y",
                                        "redis://x/%",
                                        "redis://x/%1",
                                        "redis://x/%g0",
                                        "redis://x/%00",
                                        "redis://a%@x/y",
                                        "rediss://x/y",
                                        "REDIS://x/y"};
    struct url url;

    check_url("redis://host/room", "", "", "host", "6379", "room");
    check_url("redis://h:1/a/b", "", "", "h", "1", "a/b");
    check_url("redis://[fe80::1]:65535/r", "", "", "fe80::1", "65535", "r");
    check_url("redis://[::1]/r", "", "", "::1", "6379", "r");
    check_url("redis://:pw@h/r", "", "pw", "h", "6379", "r");
    check_url("redis://u:p:w@h/r", "u", "p:w", "h", "6379", "r");
    check_url("redis://u@h/r@s", "u", "", "h", "6379", "r@s");
    check_url("redis://h/r@s", "", "", "h", "6379", "r@s");
    check_url("redis://%41%3a%40:%2F@h/%d0%BF", "A:@", "/", "h", "6379", "\xd0\xbf");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(url_parse(wrong[i], &url) != NULL);
}

static void check_long_urls(void)
{
    static char text[3 * URL_MAX] = "redis://h/";
    struct url url;

    memset(text + 10, 'r', 2 * URL_MAX);
    CHECK(url_parse(text, &url) != NULL);
    text[URL_MAX - 1] = '\0';
    CHECK(url_parse(text, &url) == NULL && strlen(url.room) == URL_MAX - 11);
}

/* ---- origins ---- */

static void name_make(char name[ORIGIN_LEN], unsigned number)
{
    memset(name, '0', ORIGIN_LEN);
    for (int at = 0; number > 0; number /= 16)
        name[at++] = "0123456789abcdef"[number % 16];
}

/* The model: when each number was last heard. The table keeps the latest ones. */
static void check_origins(unsigned seed)
{
    enum { NUMBERS = ORIGINS_MAX + 500, TURNS = 40000 };
    static unsigned heard[NUMBERS], last[NUMBERS];
    struct origins *origins = origins_open();
    unsigned now = 1;

    srand(seed);
    memset(heard, 0, sizeof heard);
    for (; now < TURNS; now++) {
        unsigned number = (unsigned)rand() % (now % 3 ? NUMBERS : 50), newer = 0;
        char name[ORIGIN_LEN];
        struct origin *origin;
        name_make(name, number);
        origin = origins_find(origins, name);
        if (now % 16 == 0) { /* counting takes long */
            for (unsigned i = 0; i < NUMBERS; i++)
                newer += heard[i] > heard[number];
            CHECK((origin != NULL) == (heard[number] > 0 && newer < ORIGINS_MAX));
        }
        CHECK(origin == NULL || origin->last == last[number]);
        if (origin == NULL) {
            origin = origins_add(origins, name);
            CHECK(origin->last == 0);
        }
        heard[number] = now;
        origin->last = last[number] = now;
    }
    origins_clear(origins);
    for (unsigned i = 0; i < NUMBERS; i++) {
        char name[ORIGIN_LEN];
        name_make(name, i);
        CHECK(origins_find(origins, name) == NULL);
    }
    origins_close(origins);
}

/* ---- trail ---- */

/* By the definition: as many of the newest entries as have at most TRAIL_BYTES. */
static void check_trail(size_t least, size_t most)
{
    enum { ENTRIES = 250 * 1000 };
    static size_t lens[ENTRIES];
    struct trail trail;

    srand(1);
    CHECK(trail_open(&trail) == 0);
    CHECK(trail_count(&trail) == TRAIL_MAX);
    for (size_t i = 0; i < ENTRIES; i++) {
        lens[i] = least + (size_t)rand() % (most - least + 1);
        trail_add(&trail, lens[i]);
        if (i % 9973 == 0 || i == TRAIL_MAX - 1 || i == TRAIL_MAX) {
            size_t count = 0, sum = 0;
            while (count <= i && count < TRAIL_MAX &&
                   sum + lens[i - count] <= TRAIL_BYTES)
                sum += lens[i - count++];
            CHECK(trail_count(&trail) == (count == i + 1 ? TRAIL_MAX : count));
        }
    }
    free(trail.lens);
}

/* An entry that is larger than all that is to be kept. */
static void check_huge(void)
{
    struct trail trail;

    CHECK(trail_open(&trail) == 0);
    trail_add(&trail, 10);
    trail_add(&trail, UINT32_MAX);
    CHECK(trail_count(&trail) == 1);
    trail_add(&trail, 10);
    CHECK(trail_count(&trail) == 1);
    trail_add(&trail, 10);
    CHECK(trail_count(&trail) == 2);
    free(trail.lens);
}

/* Entries that are just as large as all that is to be kept: they are. */
static void check_just_enough(void)
{
    struct trail trail;

    CHECK(trail_open(&trail) == 0);
    trail_add(&trail, TRAIL_BYTES - 10);
    trail_add(&trail, 10);
    CHECK(trail_count(&trail) == TRAIL_MAX);
    trail_add(&trail, 1);
    CHECK(trail_count(&trail) == 2);
    free(trail.lens);
}

/* Small entries fill the trail and go on; then large ones take their places. */
static void check_growing(void)
{
    enum { LARGE = 1024 * 1024, COUNT = TRAIL_BYTES / LARGE };
    struct trail trail;

    CHECK(trail_open(&trail) == 0);
    for (int i = 0; i < TRAIL_MAX + 1000; i++)
        trail_add(&trail, 1);
    for (int i = 1; i < COUNT; i++)
        trail_add(&trail, LARGE);
    CHECK(trail_count(&trail) == TRAIL_MAX);
    trail_add(&trail, LARGE);
    CHECK(trail_count(&trail) == COUNT);
    free(trail.lens);
}

/* ---- entry ---- */

#define ENTRY_HEAD "*1\r\n*2\r\n$1\r\nr\r\n*2\r\n"
#define ORIGIN "0123456789abcdef0123456789abcdef"

/* Takes all of a reply; counts entries, and those of our form among them. */
static void reply_take(const char *text, size_t *count, size_t *ours, struct entry *entry)
{
    struct resp resp = {.kept = NULL};
    struct slice input = {text, strlen(text)};
    struct resp_item item;

    *count = *ours = 0;
    while (resp_next(&resp, &input, &item) > 0) {
        if (entry_take(entry, &item)) {
            *count += 1;
            *ours += entry->ours;
        }
    }
    CHECK(input.len == 0 && resp.depth == 0);
    resp_close(&resp);
}

static void check_entries(void)
{
    struct entry entry = {.ours = false};
    size_t count, ours;

    reply_take(ENTRY_HEAD "*2\r\n$3\r\n1-2\r\n*6\r\n$1\r\no\r\n$32\r\n" ORIGIN
                          "\r\n$1\r\nn\r\n$2\r\n17\r\n$1\r\nd\r\n$4\r\na\nb\n\r\n"
                          "*2\r\n$3\r\n1-3\r\n*6\r\n$1\r\no\r\n$32\r\n" ORIGIN
                          "\r\n$1\r\nn\r\n$2\r\n18\r\n$1\r\nd\r\n$0\r\n\r\n",
               &count, &ours, &entry);
    CHECK(count == 2 && ours == 2);
    CHECK(entry.n == 18 && entry.messages.len == 0 && entry.len == 1 + 32 + 1 + 2 + 1);
    CHECK(memcmp(entry.origin, ORIGIN, ORIGIN_LEN) == 0);
    CHECK(entry.id_len == 3 && memcmp(entry.id, "1-3", 3) == 0);
    reply_take(ENTRY_HEAD "*2\r\n$3\r\n1-4\r\n*-1\r\n*2\r\n$3\r\n1-5\r\n*0\r\n", &count,
               &ours, &entry);
    CHECK(count == 2 && ours == 0 && entry.id[2] == '5');
    reply_take("*-1\r\n", &count, &ours, &entry);
    CHECK(count == 0);
}

#define BULK(string)                                                                     \
    {                                                                                    \
        .type = RESP_BULK, .depth = 5, .text = { string, sizeof(string) - 1 }            \
    }

/* An entry comes item by item. Returns whether it is of our form. */
static bool is_ours(struct entry *entry, const char *id, size_t id_len,
                    const struct resp_item *fields, int count)
{
    const struct resp_item name = {.type = RESP_BULK, .depth = 4, .text = {id, id_len}},
                           array = {.type = RESP_ARRAY, .depth = 4, .number = count};

    CHECK(!entry_take(entry, &name) && !entry_take(entry, &array));
    for (int i = 0; i < count; i++)
        CHECK(entry_take(entry, &fields[i]) == (i == count - 1));
    return entry->ours;
}

/* One of our form; then each of its fields is replaced by something else. */
static void check_form(void)
{
    static const struct resp_item right[] = {BULK("o"),  BULK(ORIGIN), BULK("n"),
                                             BULK("90"), BULK("d"),    BULK("a\n")};
    static const struct {
        struct resp_item field;
        int at;
        bool ours;
    } others[] = {
        {BULK("0"), 3, true},
        {BULK("123456789012345678"), 3, true}, /* 18 digits */
        {BULK(""), 5, true},
        {BULK("a\nb\n"), 5, true},
        {BULK("p"), 0, false},
        {BULK("oo"), 0, false},
        {BULK(""), 0, false},
        {{.type = RESP_STATUS, .depth = 5, .text = {"o", 1}}, 0, false},
        {{.type = RESP_NIL, .depth = 5, .text = {"o", 0}}, 0, false},
        {BULK(""), 1, false},
        {BULK(ORIGIN "0"), 1, false},
        {{.type = RESP_BULK, .depth = 5, .text = {ORIGIN, ORIGIN_LEN - 1}}, 1, false},
        {BULK("o"), 2, false},
        {BULK(""), 3, false},
        {BULK("/1"), 3, false},
        {BULK("1:"), 3, false},
        {BULK("-1"), 3, false},
        {BULK("1234567890123456789"), 3, false},
        {{.type = RESP_INTEGER, .depth = 5, .number = 1, .text = {"1", 1}}, 3, false},
        {BULK("n"), 4, false},
        {BULK("a"), 5, false},
        {BULK("a\nb"), 5, false},
        {{.type = RESP_LONG, .depth = 5, .number = 300000, .text = {"\n", 1}}, 5, false},
    };
    struct resp_item fields[8];
    struct entry entry = {.ours = false};

    CHECK(is_ours(&entry, "1-1", 3, right, 6));
    CHECK(entry.n == 90 && memcmp(entry.origin, ORIGIN, ORIGIN_LEN) == 0);
    CHECK(entry.messages.len == 2 && memcmp(entry.messages.bytes, "a\n", 2) == 0);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        memcpy(fields, right, sizeof right);
        fields[others[i].at] = others[i].field;
        CHECK(is_ours(&entry, "1-1", 3, fields, 6) == others[i].ours);
        if (i == 1)
            CHECK(entry.n == 123456789012345678);
    }
    memcpy(fields, right, sizeof right);
    fields[6] = fields[7] = right[5];
    for (int count = 1; count <= 8; count++)
        CHECK(is_ours(&entry, "1-1", 3, fields, count) == (count == 6));
}

/* A reply that ends in the middle of an entry, and the one that comes after it. */
static void check_cut_off(void)
{
    const struct resp_item id = {.type = RESP_BULK, .depth = 4, .text = {"1-1", 3}},
                           array = {.type = RESP_ARRAY, .depth = 4, .number = 6},
                           field = BULK("o");
    struct entry entry = {.ours = false};

    CHECK(!entry_take(&entry, &id) && !entry_take(&entry, &array));
    for (int i = 1; i < 6; i++)
        CHECK(!entry_take(&entry, &field));
    for (int depth = 0; depth < 4; depth++) {
        const struct resp_item next = {.type = RESP_ARRAY, .depth = depth, .number = 2};
        CHECK(!entry_take(&entry, &next));
    }
    CHECK(!entry_take(&entry, &id) && !entry_take(&entry, &array));
}

/* An ID that Redis would not give is none; what is too long to count is just long. */
static void check_long_entries(void)
{
    static const struct resp_item huge[] = {
        {.type = RESP_LONG, .depth = 5, .number = INT64_MAX - 2},
        {.type = RESP_LONG, .depth = 5, .number = 5000000000},
        BULK("x")};
    static const char id[] = "18446744073709551615-184467440737095516150";
    struct entry entry = {.ours = false};

    CHECK(!is_ours(&entry, id, ENTRY_ID_MAX, huge, 1));
    CHECK(entry.id_len == ENTRY_ID_MAX && memcmp(entry.id, id, ENTRY_ID_MAX) == 0);
    CHECK(entry.len == UINT32_MAX);
    CHECK(!is_ours(&entry, id, ENTRY_ID_MAX + 1, &huge[1], 2));
    CHECK(entry.id_len == 0 && entry.len == UINT32_MAX);
    CHECK(!is_ours(&entry, id, 3, &huge[2], 1));
    CHECK(entry.id_len == 3 && entry.len == 1);
}

int main(void)
{
    check_urls();
    check_long_urls();
    for (unsigned seed = 1; seed <= 3; seed++)
        check_origins(seed);
    check_trail(1, 100);
    check_trail(100, 3000);
    check_trail(1000, 256 * 1024);
    check_huge();
    check_just_enough();
    check_growing();
    check_entries();
    check_form();
    check_cut_off();
    check_long_entries();
    return checks_end();
}
