/*
 * addresses_test.c - final/addresses.c: clients are counted by address, or IPv6 network
 */
#include "../../final/addresses.h"
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

static struct sockaddr_storage v4(uint32_t host)
{
    struct sockaddr_storage address = {.ss_family = AF_INET};

    ((struct sockaddr_in *)(void *)&address)->sin_addr.s_addr = htonl(host);
    ((struct sockaddr_in *)(void *)&address)->sin_port = (in_port_t)rand();
    return address;
}

static struct sockaddr_storage v6(const char *text)
{
    struct sockaddr_storage address = {.ss_family = AF_INET6};

    CHECK(inet_pton(AF_INET6, text,
                    &((struct sockaddr_in6 *)(void *)&address)->sin6_addr) == 1);
    ((struct sockaddr_in6 *)(void *)&address)->sin6_port = (in_port_t)rand();
    return address;
}

/* What a function finds on the stack if it forgets to set something. */
static void stack_fill(int with)
{
    volatile char bytes[1000];

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)with;
}

static void (*volatile fill)(int) = stack_fill; /* so that it is a call */

static struct address *enter(struct addresses *table, struct sockaddr_storage address,
                             size_t max)
{
    fill(rand());
    return addresses_enter(table, &address, max);
}

static void test_max(void)
{
    struct addresses table;
    struct address *one, *two;

    CHECK(addresses_open(&table, 1000) == 0);
    one = enter(&table, v4(0x7f000001), 2);
    two = enter(&table, v4(0x7f000001), 2);
    CHECK(one != NULL && one == two);
    errno = 0;
    CHECK(enter(&table, v4(0x7f000001), 2) == NULL && errno == EUSERS);
    CHECK(enter(&table, v4(0x7f000002), 2) != NULL);
    addresses_leave(&table, one, false, 0);
    CHECK(enter(&table, v4(0x7f000001), 2) == one);
    CHECK(table.count == 2);
    addresses_close(&table);
}

static void test_networks(void)
{
    struct addresses table;
    struct address *one;

    CHECK(addresses_open(&table, 1000) == 0);
    one = enter(&table, v6("::1"), 9); /* a number of few bits, as these are */
    CHECK(enter(&table, v4(1), 9) != one && enter(&table, v4(0x01000000), 9) != one);
    one = enter(&table, v6("2001:db8:1:2::1"), 9);
    CHECK(enter(&table, v6("2001:db8:1:2:ffff:ffff:ffff:ffff"), 9) == one);
    CHECK(enter(&table, v6("2001:db8:1:3::1"), 9) != one);
    CHECK(enter(&table, v6("::1"), 9) != enter(&table, v4(0), 9));
    addresses_close(&table);
}

/* How many addresses the fullest place has. */
static int fullest(const struct addresses *table)
{
    int most = 0;

    for (size_t i = 0; i < table->places_count; i++) {
        int count = 0;
        for (struct address *at = table->places[i].first; at != NULL; at = at->next)
            count++;
        most = count > most ? count : most;
    }
    return most;
}

/* Where addresses stand differs between tables, so that nobody can fill one place. */
static void test_seed(void)
{
    struct addresses one, two;

    CHECK(addresses_open(&one, 0) == 0 && addresses_open(&two, 0) == 0);
    CHECK(one.seed != two.seed && one.seed != 0);
    addresses_close(&one);
    addresses_close(&two);
}

/* One without clients is the same for a second, and then forgotten. */
static void test_remembered(void)
{
    struct addresses table;
    struct address *one;

    CHECK(addresses_open(&table, 1000) == 0);
    one = enter(&table, v4(1), 9);
    CHECK(one->rate_full_at == 0);
    one->rate_full_at = 5;
    addresses_leave(&table, one, true, 100);
    CHECK(enter(&table, v4(2), 9) != one);
    addresses_check(&table, 1099);
    CHECK(enter(&table, v4(1), 9) == one && one->rate_full_at == 5);
    addresses_check(&table, 2000); /* it has a client again */
    CHECK(table.count == 2);
    addresses_leave(&table, one, true, 2000);
    addresses_check(&table, 3000);
    CHECK(table.count == 1 && enter(&table, v4(1), 9)->rate_full_at == 0);
    addresses_close(&table);
}

/* Many more than places: each is found again, and goes with its last client. */
static void test_growth(void)
{
    enum { HOSTS = 5000 };
    static struct address *entered[HOSTS];
    struct addresses table;

    CHECK(addresses_open(&table, 1000) == 0);
    for (uint32_t i = 0; i < HOSTS; i++)
        entered[i] = enter(&table, v4(0x0a000000 + i), 2);
    CHECK(table.count == HOSTS && table.places_count >= HOSTS);
    CHECK(fullest(&table) < 15); /* by chance it is about six */
    for (uint32_t i = 0; i < HOSTS; i++)
        CHECK(enter(&table, v4(0x0a000000 + i), 2) == entered[i]);
    for (int time = 0; time < 2; time++)
        for (uint32_t i = 0; i < HOSTS; i++)
            addresses_leave(&table, entered[i], false, 0);
    CHECK(table.count == 0);
    addresses_close(&table);
}

int main(void)
{
    test_max();
    test_networks();
    test_seed();
    test_remembered();
    test_growth();
    return checks_end();
}
