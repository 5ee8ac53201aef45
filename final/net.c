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
#include <sys/ioctl.h>
#include <unistd.h>

enum { UNSENT_MAX = 64 * 1024 }; /* bytes that wait in the kernel to be sent */
enum { PORTS_TRIED = 100 };      /* until one is free at all addresses */

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

static void option_set(int fd, int level, int option, int value, const char *name)
{
    if (setsockopt(fd, level, option, &value, sizeof value) < 0)
        err(1, "setsockopt %s", name);
}

/* A peer that has vanished without a word is noticed after 60 + 5 * 10 seconds. */
static void keepalive_set(int fd)
{
    option_set(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE");
#if defined(TCP_KEEPIDLE)
    option_set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60, "TCP_KEEPIDLE");
#elif defined(TCP_KEEPALIVE) /* macOS */
    option_set(fd, IPPROTO_TCP, TCP_KEEPALIVE, 60, "TCP_KEEPALIVE");
#endif
#if defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
    option_set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10, "TCP_KEEPINTVL");
    option_set(fd, IPPROTO_TCP, TCP_KEEPCNT, 5, "TCP_KEEPCNT");
#endif
}

/* Could not make a socket listen. Another port may do if the system has chosen this. */
static int listener_fail(int fd, const char *call, const char *endpoint, bool port_chosen)
{
    int error = errno;

    if (error != EADDRNOTAVAIL && !(error == EADDRINUSE && port_chosen))
        err(1, "%s %s", call, endpoint);
    close(fd);
    errno = error;
    return -1;
}

/*
 * Returns a socket that listens at the address, or -1 with errno EAFNOSUPPORT or
 * EADDRNOTAVAIL if this machine has none of that kind, EADDRINUSE if the system has
 * chosen the port and it is taken here. Accepted sockets inherit the options.
 */
static int listener_open(const struct sockaddr_storage *address, socklen_t len,
                         bool port_chosen)
{
    struct endpoint endpoint = endpoint_make(address);
    int fd = socket(address->ss_family, SOCK_STREAM, 0);

    if (fd < 0 && errno == EAFNOSUPPORT)
        return -1;
    if (fd < 0)
        err(1, "socket");
    /* Otherwise connections that the last run closed keep the port taken for minutes. */
    option_set(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
    /* Small messages are not to wait for more. */
    option_set(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
    /* A message is any bytes, also those that were sent as urgent (MSG_OOB). */
    option_set(fd, SOL_SOCKET, SO_OOBINLINE, 1, "SO_OOBINLINE");
    /* IPv4 has a listener of its own. */
    if (address->ss_family == AF_INET6)
        option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY");
    keepalive_set(fd);
#ifdef TCP_NOTSENT_LOWAT
    /*
     * Linux says that there is room only when a third of the send buffer is free, which
     * may be a megabyte: room is to come in small steps, and little is to wait there.
     */
    option_set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX, "TCP_NOTSENT_LOWAT");
#endif
    if (bind(fd, (const struct sockaddr *)address, len) < 0)
        return listener_fail(fd, "bind", endpoint.text, port_chosen);
    if (listen(fd, SOMAXCONN) < 0)
        return listener_fail(fd, "listen", endpoint.text, port_chosen);
    /* A newcomer may be gone again by the time of accept(), which would then block. */
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        err(1, "fcntl");
    return fd;
}

/* A host may be listed twice with one address, in /etc/hosts for instance. */
static bool is_repeated(const struct addrinfo *found, const struct addrinfo *at)
{
    for (; found != at; found = found->ai_next)
        if (found->ai_addrlen == at->ai_addrlen &&
            memcmp(found->ai_addr, at->ai_addr, at->ai_addrlen) == 0)
            return true;
    return false;
}

ssize_t net_recv(int fd, char *bytes, size_t len, int flags)
{
    return recv(fd, bytes, len, flags | MSG_DONTWAIT);
}

ssize_t net_send(int fd, struct iovec pieces[2])
{
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};

    if (pieces[1].iov_len == 0) /* a bit cheaper */
        return send(fd, pieces[0].iov_base, pieces[0].iov_len, MSG_DONTWAIT);
    return sendmsg(fd, &message, MSG_DONTWAIT);
}

void net_farewell(int fd, const char *text, size_t len)
{
    char unread[4096];

    /* Closed with bytes unread, the connection would be reset before the peer reads. */
    if (send(fd, text, len, MSG_DONTWAIT) > 0 && shutdown(fd, SHUT_WR) == 0)
        (void)net_recv(fd, unread, sizeof unread, 0);
    close(fd);
}

size_t net_unacknowledged(int fd)
{
    int len = 0;

#if defined(__linux__)
    (void)ioctl(fd, TIOCOUTQ, &len);
#elif defined(FIONWRITE)
    (void)ioctl(fd, FIONWRITE, &len);
#elif defined(SO_NWRITE) /* macOS */
    (void)getsockopt(fd, SOL_SOCKET, SO_NWRITE, &len, &(socklen_t){sizeof len});
#else
    (void)fd;
#endif
    return len > 0 ? (size_t)len : 0;
}

/*
 * Opens a listening socket for each of the addresses found, and returns how many. With
 * port 0 the system chooses one for the first address; returns 0 if it is taken at
 * another one, unless this is the last try.
 */
static size_t addresses_listen(const struct addrinfo *found, bool last_try,
                               int fds[LISTENERS_MAX])
{
    struct sockaddr_storage address = {0}, first = {0};
    size_t count = 0;

    for (const struct addrinfo *at = found; at != NULL && count < LISTENERS_MAX;
         at = at->ai_next) {
        bool port_chosen;
        if (is_repeated(found, at))
            continue;
        memcpy(&address, at->ai_addr, at->ai_addrlen);
        port_chosen = *port_of(&address) == 0;
        if (count > 0)
            *port_of(&address) = *port_of(&first);
        fds[count] = listener_open(&address, at->ai_addrlen, port_chosen && !last_try);
        if (fds[count] < 0 && errno == EADDRINUSE) {
            while (count > 0)
                close(fds[--count]);
            return 0;
        }
        if (fds[count] >= 0 && count++ == 0)
            first = net_address(fds[0]);
    }
    if (count == 0)
        err(1, "bind %s", endpoint_make(&address).text);
    return count;
}

size_t net_listen(const char *host, const char *port, int fds[LISTENERS_MAX])
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    size_t count = 0;
    int error = getaddrinfo(host, port, &hints, &found);

    if (error != 0)
        errx(1, "%s: %s", host != NULL ? host : port, gai_strerror(error));
    for (int tried = 1; count == 0; tried++)
        count = addresses_listen(found, tried == PORTS_TRIED, fds);
    freeaddrinfo(found);
    return count;
}
