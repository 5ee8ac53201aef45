/*
 * rate_test.c - final/rate.c: how many messages a client may send, and when
 */
#include "../../final/rate.h"
#include "check.h"

static const int64_t MS_NS = 1000000;

/* Says as many messages as are allowed; returns how many. */
static long say_all(struct rate rate, int64_t *full_at, int64_t now)
{
    long said = 0;

    for (; rate_allows(rate, *full_at, now) > 0; said++)
        *full_at = rate_spend(rate, *full_at, now);
    return said;
}

static void test_no_limit(void)
{
    struct rate rate = rate_make(0);

    CHECK(rate_allows(rate, 0, 12345) == SIZE_MAX);
}

static void test_burst_then_rate(void)
{
    struct rate rate = rate_make(5);
    int64_t full_at = 0, now = 1000000;

    CHECK(say_all(rate, &full_at, now) == 50); /* ten seconds' worth */
    CHECK(say_all(rate, &full_at, now) == 0);
    CHECK(say_all(rate, &full_at, now + 199) == 0);
    CHECK(say_all(rate, &full_at, now + 200) == 1);
    CHECK(say_all(rate, &full_at, now + 1200) == 5);
    CHECK(say_all(rate, &full_at, now + 3600000) == 50); /* never more */
}

static void test_any_rate(void)
{
    for (long messages = 1; messages <= RATE_MAX; messages = messages * 3 + 1) {
        struct rate rate = rate_make(messages);
        int64_t full_at = 0, now = 77;
        CHECK(rate_allows(rate, full_at, now) >= (size_t)messages * RATE_BURST_S);
        full_at = (now + RATE_BURST_S * 1000) * MS_NS; /* empty */
        CHECK(rate_allows(rate, full_at, now) == 0);
        CHECK(rate_allows(rate, full_at, now + rate_pause_ms(rate)) >= 1);
        CHECK(rate_allows(rate, full_at, now + 1000) <=
              (size_t)(messages + messages / 500));
    }
}

/* The answer is how many may come in one go, not only whether one may. */
static void test_how_many(void)
{
    struct rate slow = rate_make(5), fast = rate_make(RATE_MAX);
    const int64_t now = 1000000, full = now * MS_NS, message = 1000000000 / RATE_MAX,
                  most = RATE_BURST_S * (int64_t)RATE_MAX;

    CHECK_EQUAL((long)rate_allows(slow, 0, now), 50); /* however long it was silent */
    CHECK_EQUAL((long)rate_allows(slow, rate_spend(slow, 0, now), now), 49);
    CHECK_EQUAL((long)rate_allows(slow, full + 11000 * MS_NS, now), 0);
    CHECK(rate_spend(slow, full - 1, now) == full + 200 * MS_NS);
    CHECK(rate_spend(slow, full + 1, now) == full + 200 * MS_NS + 1);
    CHECK_EQUAL((long)rate_allows(fast, full, now), (long)most);
    CHECK_EQUAL((long)rate_allows(fast, full + 1, now), (long)most - 1);
    CHECK_EQUAL((long)rate_allows(fast, full + (most - 1) * message, now), 1);
}

static void test_pauses(void)
{
    CHECK_EQUAL((long)rate_pause_ms(rate_make(5)), 200);
    CHECK_EQUAL((long)rate_pause_ms(rate_make(3)), 334); /* 333 would be too short */
    CHECK_EQUAL((long)rate_pause_ms(rate_make(RATE_MAX)), RATE_PAUSE_MIN_MS);
}

/* Is there anything to remember? */
static void test_full(void)
{
    CHECK(!rate_fills(0, 1000) && !rate_fills(1000 * MS_NS, 1000));
    CHECK(rate_fills(1000 * MS_NS + 1, 1000));
}

int main(void)
{
    test_full();
    test_no_limit();
    test_pauses();
    test_how_many();
    test_burst_then_rate();
    test_any_rate();
    return checks_end();
}
