/*
 * proxy - reads the PROXY protocol's header, versions 1 and 2
 *
 * A proxy that passes a connection on begins it with a header: a line of text (version 1)
 * or a binary block (version 2), which says whose connection it is. What follows it is
 * the client's own.
 *
 * Interface: start with a struct proxy of zeros; hand every read to proxy_take() while
 * the state is PROXY_MORE. Pure: no sockets, no memory but the struct's own, and it makes
 * no difference how the header was cut into reads.
 *
 * The rules: "The PROXY protocol", versions 1 and 2, in haproxy's documentation
 * (proxy-protocol.txt).
 */
#ifndef PROXY_H
#define PROXY_H

#include <stddef.h>
#include <sys/socket.h>

enum { PROXY_KEPT = 107 }; /* bytes: the longest header of version 1, CR LF included */

enum proxy_state {
    PROXY_MORE,    /* the header is not complete */
    PROXY_ADDRESS, /* complete: address is the client's */
    PROXY_OWN,     /* complete, and names nobody: the proxy speaks for itself */
    PROXY_INVALID  /* this is no header */
};

struct proxy {
    enum proxy_state state;
    size_t len;                      /* bytes of the header so far */
    unsigned char kept[PROXY_KEPT];  /* the first of them; what follows says nothing */
    struct sockaddr_storage address; /* IPv4 or IPv6, with PROXY_ADDRESS */
};

/*
 * Takes the header's part of len bytes. Returns how many that were: all of them while the
 * state is PROXY_MORE; otherwise those behind it are not the header's.
 */
size_t proxy_take(struct proxy *proxy, const char *bytes, size_t len);

#endif
