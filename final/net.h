/*
 * net - addresses as text, and the sockets that listen at them
 *
 * Interface: net_listen() is for start-up only: an error ends the program with one line.
 */
#ifndef NET_H
#define NET_H

#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { LISTENERS_MAX = 8 }; /* addresses that one host name may stand for */

/* An address and port: "192.0.2.7:53124" or "[2001:db8::7]:53124". */
struct endpoint {
    char text[INET6_ADDRSTRLEN + sizeof "[]:65535"];
    unsigned char address; /* where in the text the address alone begins, */
    unsigned char address_len;
};

/* Takes over a connection; from: its client's address, as far as it is known. */
typedef void on_newcomer(int fd, const struct sockaddr_storage *from);

/* Returns the name of an IPv4 or IPv6 address. */
struct endpoint endpoint_make(const struct sockaddr_storage *address);

/*
 * Opens a non-blocking listening socket for each address of the host (NULL: all of this
 * machine's), stores them in fds and returns how many (1 to LISTENERS_MAX); the caller
 * closes them. With port "0" they share a free one. Ends the program with status 1 on an
 * error.
 */
size_t net_listen(const char *host, const char *port, int fds[LISTENERS_MAX]);

/*
 * Like recv(2) and send(2), but never wait, even if the socket has not been made
 * nonblocking: that would be one more call for each newcomer. net_send() sends two
 * pieces, of which the second may be empty.
 */
ssize_t net_recv(int fd, char *bytes, size_t len, int flags);
ssize_t net_send(int fd, struct iovec pieces[2]);

/* Sends a last text on a new connection, without waiting, and closes it. */
void net_farewell(int fd, const char *text, size_t len);

/*
 * How many bytes the socket's peer has not acknowledged yet. It falls as soon as the peer
 * takes any; 0 on a system that does not say.
 */
size_t net_unacknowledged(int fd);

/* Returns a socket's own address. */
struct sockaddr_storage net_address(int fd);

#endif
