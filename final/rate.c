/*
 * rate - see rate.h. Systems: any.
 */
#include "rate.h"

static const int64_t SECOND_NS = 1000000000, MS_NS = 1000000;

struct rate rate_make(long messages)
{
    return (struct rate){messages > 0 ? SECOND_NS / messages : 0};
}

size_t rate_allows(struct rate rate, int64_t full_at, int64_t now_ms)
{
    int64_t missing = full_at - now_ms * MS_NS;
    int64_t holds = RATE_BURST_S * SECOND_NS - (missing > 0 ? missing : 0);

    if (rate.cost_ns == 0)
        return SIZE_MAX;
    return holds > 0 ? (size_t)(holds / rate.cost_ns) : 0;
}

int64_t rate_spend(struct rate rate, int64_t full_at, int64_t now_ms)
{
    int64_t from = full_at > now_ms * MS_NS ? full_at : now_ms * MS_NS;

    return from + rate.cost_ns;
}

bool rate_fills(int64_t full_at, int64_t now_ms)
{
    return full_at > now_ms * MS_NS;
}

int64_t rate_pause_ms(struct rate rate)
{
    int64_t pause = (rate.cost_ns + MS_NS - 1) / MS_NS;

    return pause > RATE_PAUSE_MIN_MS ? pause : RATE_PAUSE_MIN_MS;
}
