/*
 * proxy_fuzz - final/proxy.c with any bytes: it makes no difference how they are cut
 *
 * A libFuzzer target. The first byte of the input decides how the others are cut into
 * reads. See fuzz.py.
 */
#include "../../final/proxy.h"
#include "../unit/check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A read has memory of its own, of exactly its size: nobody may read beyond it. */
static size_t take(struct proxy *proxy, const uint8_t *bytes, size_t len)
{
    char *copy = malloc(len);
    size_t used;

    memcpy(copy, bytes, len);
    used = proxy_take(proxy, copy, len);
    CHECK(used <= len);
    CHECK(used == len || proxy->state != PROXY_MORE);
    free(copy);
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy whole = {0}, cut = {0};
    size_t taken = 0, used;

    if (size < 2)
        return 0;
    used = take(&whole, data + 1, size - 1);
    while (cut.state == PROXY_MORE && taken < size - 1) {
        size_t len = 1 + data[0] % 40;
        len = len < size - 1 - taken ? len : size - 1 - taken;
        taken += take(&cut, data + 1 + taken, len);
    }
    CHECK(taken == used);
    CHECK(cut.state == whole.state);
    CHECK(memcmp(&cut.address, &whole.address, sizeof cut.address) == 0);
    CHECK((whole.address.ss_family != 0) == (whole.state == PROXY_ADDRESS));
    return 0;
}
