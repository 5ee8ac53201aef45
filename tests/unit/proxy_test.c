/*
 * proxy_test.c - final/proxy.c: the headers that a proxy may send, cut in every way
 *
 * The expected addresses are written by hand, from the protocol's own text.
 */
#include "../../final/proxy.h"
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define BYTES(text) text, sizeof(text) - 1
#define MAPPED "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\2\7"
#define V6 "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\7"
#define ZEROS_20 "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"

struct header {
    const char *bytes;
    size_t len;
    const char *address; /* "address port"; "": the proxy's own; NULL: it is not valid */
};

static const struct header headers[] = {
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 53124 3100\r\n"), "192.0.2.7 53124"},
    {BYTES("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
     "255.255.255.255 65535"},
    {BYTES("PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n"), "1.2.3.4 0"},
    {BYTES("PROXY TCP6 2001:db8::7 ::1 53124 3100\r\n"), "2001:db8::7 53124"},
    {BYTES("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), "192.0.2.7 1"},
    {BYTES("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
           "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
     "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535"},
    {BYTES("PROXY UNKNOWN\r\n"), ""},
    {BYTES("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
           "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
     ""},
    {BYTES("PROXY UNKNOWN what  ever\r\n"), ""},
    {BYTES(SIGNATURE "\x21\x11\0\x0c\xc0\0\2\7\xc0\0\2\1\xcf\x84\x0c\x1c"),
     "192.0.2.7 53124"},
    {BYTES(SIGNATURE "\x21\x11\0\x0f\xc0\0\2\7\xc0\0\2\1\xcf\x84\x0c\x1c\4\0\0"),
     "192.0.2.7 53124"}, /* with something after the address */
    {BYTES(SIGNATURE "\x21\x21\0\x24" V6 V6 "\xcf\x84\x0c\x1c"), "2001:db8::7 53124"},
    {BYTES(SIGNATURE "\x21\x21\0\x24" MAPPED V6 "\xcf\x84\x0c\x1c"), "192.0.2.7 53124"},
    {BYTES(SIGNATURE "\x20\0\0\0"), ""},
    {BYTES(SIGNATURE "\x20\x11\0\x0c\xc0\0\2\7\xc0\0\2\1\xcf\x84\x0c\x1c"), ""},
    {BYTES(SIGNATURE "\x20\xff\0\1\0"), ""}, /* LOCAL: the family does not count */
    {BYTES(SIGNATURE "\x21\0\0\0"), ""},
    {BYTES(SIGNATURE "\x21\0\0\2\1\2"), ""},
    {BYTES(SIGNATURE "\x21\x31\0\4path"), ""},
    {BYTES(SIGNATURE "\x21\0\0\x64" ZEROS_20 ZEROS_20 ZEROS_20 ZEROS_20 ZEROS_20), ""},

    {BYTES("hi\n"), NULL},
    {BYTES("\n"), NULL},
    {BYTES("\0"), NULL},
    {BYTES("proxy TCP4 192.0.2.7 192.0.2.1 53124 3100\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 53124 3100\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 53124\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 53124 3100 1\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 53124 3100 \r\n"), NULL},
    {BYTES("PROXY TCP4  192.0.2.7 192.0.2.1 53124 3100\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 65536 3100\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 53124 -1\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 +1 3100\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 1 000001\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2 53124 3100\r\n"), NULL},
    {BYTES("PROXY TCP4 ::1 ::1 53124 3100\r\n"), NULL},
    {BYTES("PROXY TCP6 192.0.2.7 192.0.2.1 53124 3100\r\n"), NULL},
    {BYTES("PROXY UDP4 192.0.2.7 192.0.2.1 53124 3100\r\n"), NULL},
    {BYTES("PROXY UNKNOWNS\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7\0 192.0.2.1 53124 3100\r\n"), NULL},
    {BYTES("PROXY TCP4 192.0.2.7 192.0.2.1 53124 3100\0\r\n"), NULL},
    {BYTES("PROXY \r\n"), NULL},
    /* 108 bytes */
    {BYTES("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
           "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 655350\r\n"),
     NULL},
    {BYTES("\r\n\r\n\0\r\nQUIX\n\x21\x11\0\x0c"), NULL}, /* the signature */
    {BYTES(SIGNATURE "\x11\x11\0\x0c"), NULL},           /* version 1 in version 2 */
    {BYTES(SIGNATURE "\x22\x11\0\x0c"), NULL},           /* an unknown command */
    {BYTES(SIGNATURE "\x21\x41\0\1\0"), NULL},           /* an unknown family */
    /* UDP */
    {BYTES(SIGNATURE "\x21\x12\0\x0c\xc0\0\2\7\xc0\0\2\1\xcf\x84\x0c\x1c"), NULL},
    {BYTES(SIGNATURE "\x21\x11\0\x0b\xc0\0\2\7\xc0\0\2\1\xcf\x84\x0c"), NULL}, /* short */
    {BYTES(SIGNATURE "\x21\x21\0\x23" V6 V6 "\xcf\x84\x0c"), NULL},
    {BYTES(SIGNATURE "\x21\x21\0\x0c\xc0\0\2\7\xc0\0\2\1\xcf\x84\x0c\x1c"), NULL},
};

enum { HEADERS = sizeof headers / sizeof headers[0] };

static const char BEHIND[] = "hi\nPROXY UNKNOWN\r\n";

static bool address_is(const struct sockaddr_storage *address, const char *expected)
{
    char text[INET6_ADDRSTRLEN], with_port[INET6_ADDRSTRLEN + 8];
    const struct sockaddr_in *v4 = (const void *)address;
    const struct sockaddr_in6 *v6 = (const void *)address;
    bool is_v4 = address->ss_family == AF_INET;

    inet_ntop(address->ss_family,
              is_v4 ? (const void *)&v4->sin_addr : (const void *)&v6->sin6_addr, text,
              sizeof text);
    snprintf(with_port, sizeof with_port, "%s %d", text,
             ntohs(is_v4 ? v4->sin_port : v6->sin6_port));
    return strcmp(with_port, expected) == 0;
}

static void check_outcome(const struct proxy *proxy, const struct header *header,
                          size_t taken)
{
    if (header->address == NULL) {
        CHECK(proxy->state == PROXY_INVALID);
        CHECK(taken <= header->len);
        return;
    }
    CHECK(taken == header->len); /* and not a byte of what follows it */
    CHECK(proxy->state == (header->address[0] ? PROXY_ADDRESS : PROXY_OWN));
    if (proxy->state == PROXY_ADDRESS)
        CHECK(address_is(&proxy->address, header->address));
}

/* Hands over a piece in memory of just its size: a sanitizer sees any step beyond it. */
static size_t take(struct proxy *proxy, const char *bytes, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    size_t used;

    memcpy(copy, bytes, len);
    used = proxy_take(proxy, copy, len);
    CHECK(used == len || proxy->state != PROXY_MORE);
    free(copy);
    return used;
}

/* The header and what follows it: a first piece, then pieces of equal length. */
static void check_pieces(const struct header *header, size_t first, size_t piece)
{
    char stream[256];
    struct proxy proxy = {0};
    size_t len = header->len + sizeof BEHIND - 1, taken = 0, end = first;

    memcpy(stream, header->bytes, header->len);
    memcpy(stream + header->len, BEHIND, sizeof BEHIND - 1);
    while (proxy.state == PROXY_MORE && taken < len) {
        taken += take(&proxy, stream + taken, end - taken);
        end = end + piece < len ? end + piece : len;
    }
    check_outcome(&proxy, header, taken);
}

static void check_header(const struct header *header)
{
    for (size_t first = 0; first <= header->len; first++)
        check_pieces(header, first, 256);
    for (size_t piece = 1; piece < 8; piece++)
        check_pieces(header, piece, piece);
}

/* Nothing is known before the last byte, except that this is not a header. */
static void check_promptness(const struct header *header)
{
    struct proxy proxy = {0};

    take(&proxy, header->bytes, header->len - 1);
    CHECK(proxy.state == PROXY_MORE || header->address == NULL);
}

/* A start that no header has is refused at once: nobody waits for the rest of "hello". */
static void check_first_wrong_byte(void)
{
    static const char *const starts[] = {"x", "PROXX", "PROXYT", "\r\nx", "\n"};

    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        struct proxy proxy = {0};
        size_t len = strlen(starts[i]);
        CHECK(take(&proxy, starts[i], len) == len && proxy.state == PROXY_INVALID);
    }
}

/* The longest header that the binary form can announce; it is not over a byte sooner. */
static void check_longest(void)
{
    static char header[16 + 65535] =
        SIGNATURE "\x21\x11\xff\xff\xc0\0\2\7\xc0\0\2\1\xcf\x84\x0c\x1c";
    struct proxy proxy = {0};

    CHECK(proxy_take(&proxy, header, sizeof header - 1) == sizeof header - 1);
    CHECK(proxy.state == PROXY_MORE);
    CHECK(proxy_take(&proxy, "xy", 2) == 1);
    CHECK(proxy.state == PROXY_ADDRESS && address_is(&proxy.address, "192.0.2.7 53124"));
}

int main(void)
{
    for (size_t i = 0; i < HEADERS; i++) {
        check_header(&headers[i]);
        check_promptness(&headers[i]);
    }
    check_first_wrong_byte();
    check_longest();
    return checks_end();
}
