/*
 * net - see net.h. Systems: Linux, macOS and the BSDs.
 */
#include "net.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static in_port_t *port_of(struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? &((struct sockaddr_in6 *)address)->sin6_port
                                          : &((struct sockaddr_in *)address)->sin_port;
}

struct endpoint endpoint_make(const struct sockaddr_storage *address)
{
    struct sockaddr_storage copy = *address;
    bool v6 = copy.ss_family == AF_INET6;
    const void *host = v6 ? (void *)&((struct sockaddr_in6 *)&copy)->sin6_addr
                          : (void *)&((struct sockaddr_in *)&copy)->sin_addr;
    char text[INET6_ADDRSTRLEN] = "?";
    struct endpoint endpoint;

    inet_ntop(copy.ss_family, host, text, sizeof text);
    snprintf(endpoint.text, sizeof endpoint.text, v6 ? "[%s]:%d" : "%s:%d", text,
             ntohs(*port_of(&copy)));
    endpoint.address = v6;
    endpoint.address_len = (unsigned char)strlen(text);
    return endpoint;
}

struct sockaddr_storage net_address(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        err(1, "getsockname");
    return address;
}

static void option_set(int fd, int level, int option)
{
    int on = 1;

    if (setsockopt(fd, level, option, &on, sizeof on) < 0)
        err(1, "setsockopt");
}

/*
 * Returns a socket that listens at the address, or -1 with errno EAFNOSUPPORT or
 * EADDRNOTAVAIL if this machine has none of that kind. Accepted sockets inherit the
 * options.
 */
static int listener_open(const struct sockaddr_storage *address, socklen_t len)
{
    struct endpoint endpoint = endpoint_make(address);
    int fd = socket(address->ss_family, SOCK_STREAM, 0);

    if (fd < 0 && errno == EAFNOSUPPORT)
        return -1;
    if (fd < 0)
        err(1, "socket");
    /* Else the port stays taken for minutes by connections that the last run closed. */
    option_set(fd, SOL_SOCKET, SO_REUSEADDR);
    option_set(fd, SOL_SOCKET, SO_KEEPALIVE); /* to notice clients that vanished */
    option_set(fd, IPPROTO_TCP,
               TCP_NODELAY); /* small messages are not to wait for more */
    if (address->ss_family == AF_INET6)
        option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY); /* IPv4 has a listener of its own */
    if (bind(fd, (const struct sockaddr *)address, len) < 0) {
        if (errno != EADDRNOTAVAIL)
            err(1, "bind %s", endpoint.text);
        close(fd);
        errno = EADDRNOTAVAIL;
        return -1;
    }
    /* A newcomer may be gone again by the time of accept(), which would then block. */
    if (listen(fd, SOMAXCONN) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        err(1, "listen %s", endpoint.text);
    return fd;
}

size_t net_listen(const char *host, const char *port, int fds[LISTENERS_MAX])
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct sockaddr_storage address = {0}, first = {0};
    struct addrinfo *found;
    size_t count = 0;
    int error = getaddrinfo(host, port, &hints, &found);

    if (error != 0)
        errx(1, "%s: %s", host != NULL ? host : port, gai_strerror(error));
    for (struct addrinfo *at = found; at != NULL && count < LISTENERS_MAX;
         at = at->ai_next) {
        memcpy(&address, at->ai_addr, at->ai_addrlen);
        if (count > 0)
            *port_of(&address) = *port_of(&first);
        fds[count] = listener_open(&address, at->ai_addrlen);
        if (fds[count] >= 0 && count++ == 0)
            first = net_address(fds[0]);
    }
    freeaddrinfo(found);
    if (count == 0)
        err(1, "bind %s", endpoint_make(&address).text);
    return count;
}
