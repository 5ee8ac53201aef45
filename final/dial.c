/*
 * dial - see dial.h. Systems: Linux, macOS and the BSDs.
 */
#include "dial.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

const char *dial_open(struct dial *dial, const char *host, const char *port)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    int error;

    *dial = (struct dial){NULL, NULL, 0};
    error = getaddrinfo(host, port, &hints, &dial->list);
    if (error != 0)
        return error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error);
    dial->next = dial->list;
    return NULL;
}

/* A connect(2) that a signal interrupts goes on by itself, as one in progress does. */
static int dial_address(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    int error;

    if (fd < 0)
        return -1;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
        (connect(fd, address->ai_addr, address->ai_addrlen) == 0 ||
         errno == EINPROGRESS || errno == EINTR))
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int dial_next(struct dial *dial)
{
    while (dial->next != NULL) {
        int fd = dial_address(dial->next);

        dial->next = dial->next->ai_next;
        if (fd >= 0)
            return fd;
        dial->error = errno;
    }
    errno = dial->error;
    return -1;
}

bool dial_connected(struct dial *dial, int fd)
{
    int error = 0, on = 1;
    socklen_t size = sizeof error;

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error != 0) {
        close(fd);
        dial->error = error;
        return false;
    }
    /* A silent server that has vanished should be noticed some time. */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    return true;
}

void dial_close(struct dial *dial)
{
    if (dial->list != NULL)
        freeaddrinfo(dial->list);
    *dial = (struct dial){NULL, NULL, 0};
}
