/*
 * url - see url.h. Systems: any.
 */
#include "url.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const char NOT_THE_FORM[] = "the form is " URL_FORM;

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef0123456789ABCDEF", *at = strchr(digits, c);

    return c == '\0' || at == NULL ? -1 : (int)((at - digits) % 16);
}

/* Copies len bytes as a string, %XX as the byte that it stands for. NUL is none. */
static bool part_decode(char *to, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        int byte = (unsigned char)text[i];
        if (byte == '%') {
            int high = i + 1 < len ? hex_digit(text[i + 1]) : -1;
            int low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
            byte = high < 0 || low < 0 ? 0 : 16 * high + low;
            i += 2;
        }
        if (byte == 0)
            return false;
        *to++ = (char)byte;
    }
    *to = '\0';
    return true;
}

/* [user]:password, or a user alone. */
static bool user_parse(const char *text, size_t len, struct url *url)
{
    const char *colon = memchr(text, ':', len);
    size_t user_len = colon != NULL ? (size_t)(colon - text) : len;

    if (!part_decode(url->user, text, user_len))
        return false;
    return colon == NULL || part_decode(url->password, colon + 1, len - user_len - 1);
}

/* "", or a colon and a number from 1 to 65535. */
static bool port_parse(const char *text, size_t len, struct url *url)
{
    long port;

    if (len == 0)
        return true;
    if (text[0] != ':' || len - 1 >= sizeof url->port || len == 1 ||
        strspn(text + 1, "0123456789") < len - 1)
        return false;
    memcpy(url->port, text + 1, len - 1);
    url->port[len - 1] = '\0';
    port = strtol(url->port, NULL, 10);
    return port >= 1 && port <= 65535;
}

/* host[:port]; an IPv6 address stands in brackets. */
static bool host_parse(const char *text, size_t len, struct url *url)
{
    bool brackets = len > 0 && text[0] == '[';
    const char *host = text + brackets;
    const char *end = memchr(text, brackets ? ']' : ':', len);
    size_t host_len;

    if (end == NULL && brackets)
        return false;
    host_len = end != NULL ? (size_t)(end - host) : len;
    if (host_len == 0)
        return false;
    memcpy(url->host, host, host_len);
    url->host[host_len] = '\0';
    host += host_len + brackets;
    return port_parse(host, (size_t)(text + len - host), url);
}

const char *url_parse(const char *text, struct url *url)
{
    const char *slash, *at;

    *url = (struct url){.port = "6379"};
    if (strncmp(text, "rediss://", 9) == 0)
        return "rediss:// means TLS, which is not spoken here: let a proxy (stunnel) "
               "speak "
               "it, and name the proxy as redis://host[:port]/room";
    if (strncmp(text, "redis://", 8) != 0 || strlen(text) >= URL_MAX)
        return NOT_THE_FORM;
    text += 8;
    if ((slash = strchr(text, '/')) == NULL || slash[1] == '\0' ||
        !part_decode(url->room, slash + 1, strlen(slash + 1)))
        return NOT_THE_FORM;
    if ((at = memchr(text, '@', (size_t)(slash - text))) != NULL) {
        if (!user_parse(text, (size_t)(at - text), url))
            return NOT_THE_FORM;
        text = at + 1;
    }
    return host_parse(text, (size_t)(slash - text), url) ? NULL : NOT_THE_FORM;
}
