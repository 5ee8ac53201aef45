/*
 * proxy - see proxy.h. Systems: any.
 */
#include "proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char TEXT[] = "PROXY ";
static const char SIGNATURE[] = "\r\n\r\n\0\r\nQUIT\n";

enum { TEXT_LEN = sizeof TEXT - 1, SIGNATURE_LEN = sizeof SIGNATURE - 1 };
enum { BINARY_HEAD = 16 };         /* bytes before the addresses of version 2 */
enum { LOCAL = 0x20, FOR = 0x21 }; /* version 2, and what kind of connection it is */
enum { TCP4 = 0x11, TCP6 = 0x21 };
enum { FAMILY_UNSPEC = 0, FAMILY_UNIX = 3 }; /* the upper half of that byte */

static enum proxy_state address_v4(struct proxy *proxy, const void *address,
                                   unsigned port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((in_port_t)port)};

    memcpy(&in.sin_addr, address, sizeof in.sin_addr);
    memcpy(&proxy->address, &in, sizeof in);
    return PROXY_ADDRESS;
}

/* One client has one address: an IPv4 address in IPv6's clothes is an IPv4 address. */
static enum proxy_state address_v6(struct proxy *proxy, const void *address,
                                   unsigned port)
{
    struct sockaddr_in6 in = {.sin6_family = AF_INET6,
                              .sin6_port = htons((in_port_t)port)};

    memcpy(&in.sin6_addr, address, sizeof in.sin6_addr);
    if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr))
        return address_v4(proxy, (const char *)address + 12, port);
    memcpy(&proxy->address, &in, sizeof in);
    return PROXY_ADDRESS;
}

/* Puts a text's parts, which one space each separates, into fields. Returns how many. */
static size_t fields_split(char *text, char *fields[], size_t max)
{
    size_t count = 0;

    while (count < max) {
        fields[count++] = text;
        if ((text = strchr(text, ' ')) == NULL)
            return count;
        *text++ = '\0';
    }
    return max + 1;
}

/* Returns the number of a port, -1 if the text is none. */
static int port_parse(const char *text)
{
    size_t len = strlen(text);
    long port = strspn(text, "0123456789") == len ? strtol(text, NULL, 10) : -1;

    return len > 0 && len <= 5 && port <= 65535 ? (int)port : -1;
}

/* "TCP4 192.0.2.7 192.0.2.1 53124 3100": protocol, from, to, and the ports of both. */
static enum proxy_state text_parse(struct proxy *proxy, char *text)
{
    char *fields[5];
    unsigned char from[sizeof(struct in6_addr)], to[sizeof(struct in6_addr)];
    size_t count = fields_split(text, fields, 5);
    bool v4 = strcmp(fields[0], "TCP4") == 0;
    int family = v4 ? AF_INET : AF_INET6;
    int port;

    if (strcmp(fields[0], "UNKNOWN") == 0)
        return PROXY_OWN; /* whatever follows in the line */
    if (count != 5 || (!v4 && strcmp(fields[0], "TCP6") != 0) ||
        inet_pton(family, fields[1], from) != 1 ||
        inet_pton(family, fields[2], to) != 1 || (port = port_parse(fields[3])) < 0 ||
        port_parse(fields[4]) < 0)
        return PROXY_INVALID;
    return (v4 ? address_v4 : address_v6)(proxy, from, (unsigned)port);
}

static enum proxy_state text_state(struct proxy *proxy)
{
    char line[PROXY_KEPT + 1] = "";

    if (memcmp(proxy->kept, TEXT, proxy->len < TEXT_LEN ? proxy->len : TEXT_LEN) != 0)
        return PROXY_INVALID;
    if (proxy->kept[proxy->len - 1] != '\n')
        return proxy->len < PROXY_KEPT ? PROXY_MORE : PROXY_INVALID;
    if (proxy->kept[proxy->len - 2] != '\r' || memchr(proxy->kept, 0, proxy->len) != NULL)
        return PROXY_INVALID;
    memcpy(line, proxy->kept + TEXT_LEN, proxy->len - TEXT_LEN);
    line[proxy->len - TEXT_LEN - 2] = '\0';
    return text_parse(proxy, line);
}

/* From, to, and both ports, as they are on the wire; what may follow, nobody needs. */
static enum proxy_state binary_parse(struct proxy *proxy, size_t len)
{
    const unsigned char *from = proxy->kept + BINARY_HEAD, *ports;
    unsigned family = proxy->kept[SIGNATURE_LEN + 1];

    if (proxy->kept[SIGNATURE_LEN] == LOCAL || family >> 4 == FAMILY_UNSPEC ||
        family >> 4 == FAMILY_UNIX)
        return PROXY_OWN;
    if (family == TCP4 && len >= 2 * 4 + 2 * 2) {
        ports = from + 2 * 4;
        return address_v4(proxy, from, ports[0] * 256U + ports[1]);
    }
    if (family == TCP6 && len >= 2 * 16 + 2 * 2) {
        ports = from + 2 * 16;
        return address_v6(proxy, from, ports[0] * 256U + ports[1]);
    }
    return PROXY_INVALID;
}

static enum proxy_state binary_state(struct proxy *proxy)
{
    const unsigned char *kept = proxy->kept;
    size_t len;

    if (memcmp(kept, SIGNATURE,
               proxy->len < SIGNATURE_LEN ? proxy->len : SIGNATURE_LEN) != 0)
        return PROXY_INVALID;
    if (proxy->len > SIGNATURE_LEN && kept[SIGNATURE_LEN] != LOCAL &&
        kept[SIGNATURE_LEN] != FOR)
        return PROXY_INVALID;
    if (proxy->len < BINARY_HEAD)
        return PROXY_MORE;
    len = kept[BINARY_HEAD - 2] * 256U + kept[BINARY_HEAD - 1];
    return proxy->len < BINARY_HEAD + len ? PROXY_MORE : binary_parse(proxy, len);
}

size_t proxy_take(struct proxy *proxy, const char *bytes, size_t len)
{
    size_t used = 0;

    while (proxy->state == PROXY_MORE && used < len) {
        if (proxy->len < PROXY_KEPT)
            proxy->kept[proxy->len] = (unsigned char)bytes[used];
        proxy->len++;
        used++;
        proxy->state = proxy->kept[0] == '\r' ? binary_state(proxy) : text_state(proxy);
    }
    return used;
}
