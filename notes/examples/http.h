/*
 * http.h - as much of HTTP as two small servers need: a request comes in, an answer goes
 *
 * Interface: request_read() and request_parse() tell what is wanted, place_find() and
 * file_open() find it below a folder, head_send() and failure_send() begin an answer.
 * What is wrong is told as the status that the answer then has, 404 if nothing is there.
 *
 *   - One request per connection, GET or HEAD; its header fields are not looked at.
 *   - The client's socket has to be nonblocking. poll() waits for it, so that no wait is
 *     longer than the server's patience.
 *   - A path is walked name by name, after %XX was decoded; each name is opened in the
 *     folder before it. Neither ".." nor a symbolic link exists here, wherever it leads.
 *     So nobody gets out of the folder, even if somebody moves things about in it.
 */
#ifndef HTTP_H
#define HTTP_H

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REQUEST_MAX = 8192 }; /* bytes up to the empty line; a browser needs about 1000 */
enum { LOG_LINE = 480 };     /* with a status it is below any PIPE_BUF: one write */
enum { UNKNOWN = -1 };       /* the body's len: the end of the connection will tell */
/* In place of a status: no whole request, or no whole answer. */
enum { CLIENT_GONE = -1 };

struct request {
    int client;      /* the socket of who asks */
    int patience_ms; /* how long to wait until it can be read or written a little */
    char bytes[REQUEST_MAX + 1];
    size_t len;
    bool head;   /* HEAD: the answer without its body */
    char *path;  /* decoded; it begins with a slash */
    char *query; /* what followed a '?', as it came */
};

/* A name in an open folder. */
struct place {
    int folder;
    const char *name;
};

/* Returns whether the empty line has come that ends a request. */
static inline bool request_complete(const struct request *request)
{
    const char *bytes = request->bytes;

    for (size_t i = 1; i < request->len; i++)
        if (bytes[i] == '\n' && (bytes[i - 1] == '\n' ||
                                 (i > 1 && bytes[i - 1] == '\r' && bytes[i - 2] == '\n')))
            return true;
    return false;
}

/* Waits until the client's socket is ready. Returns 0, or -1: not for too long. */
static inline int client_wait(const struct request *request, short events)
{
    struct pollfd wait = {.fd = request->client, .events = events};

    return poll(&wait, 1, request->patience_ms) > 0 ? 0 : -1;
}

/* Reads a request to its end. Returns 0, a status, or CLIENT_GONE. */
static inline int request_read(struct request *request)
{
    request->len = 0;
    while (!request_complete(request)) {
        ssize_t n;
        if (request->len == REQUEST_MAX)
            return 431;
        if (client_wait(request, POLLIN) < 0)
            return CLIENT_GONE;
        n = recv(request->client, request->bytes + request->len,
                 REQUEST_MAX - request->len, 0);
        if (n > 0)
            request->len += (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return CLIENT_GONE;
    }
    return 0;
}

/*
 * Writes the request's first line to line[LOG_LINE], cut if it is too long. So that
 * nobody forges a log, control bytes become \xNN, and who prints the line prints all of
 * it at once: what is printed in parts has other processes' lines in between.
 */
static inline void request_show(const struct request *request, char *line)
{
    const char *bytes = request->bytes;
    size_t len = 0;

    line[0] = '\0';
    for (size_t i = 0; i < request->len && bytes[i] != '\n' && len + 4 < LOG_LINE; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        if (byte == '\r' && i + 1 < request->len && bytes[i + 1] == '\n')
            break;
        len += (size_t)snprintf(line + len, LOG_LINE - len,
                                byte < ' ' || byte >= 0x7f ? "\\x%02x" : "%c", byte);
    }
}

/* Puts the byte in the place of each %XX. Returns 0, or -1 if one is wrong. */
static inline int path_decode(char *path)
{
    char *to = path;

    for (const char *from = path; *from != '\0'; from++) {
        char byte = *from;
        if (byte == '%') {
            char hex[] = {from[1], '\0', '\0'};
            if (!isxdigit((unsigned char)from[1]) || !isxdigit((unsigned char)from[2]))
                return -1;
            hex[1] = from[2];
            byte = (char)strtol(hex, NULL, 16);
            if (byte == '\0')
                return -1; /* no name has one, and a C string would end there */
            from += 2;
        }
        *to++ = byte;
    }
    *to = '\0';
    return 0;
}

/* Cuts a complete request into its parts. Returns 0, or a status. */
static inline int request_parse(struct request *request)
{
    char *method = request->bytes, *target, *version;
    char *end = memchr(method, '\n', request->len);

    if (end == NULL || memchr(method, '\0', (size_t)(end - method)) != NULL)
        return 400;
    *end = '\0';
    if ((target = strchr(method, ' ')) == NULL ||
        (version = strchr(target + 1, ' ')) == NULL ||
        strncmp(version, " HTTP/1.", 8) != 0)
        return 400;
    *target++ = '\0';
    *version = '\0';
    request->head = strcmp(method, "HEAD") == 0;
    if (!request->head && strcmp(method, "GET") != 0)
        return 405;
    request->path = target;
    request->query = target + strcspn(target, "?");
    if (*request->query == '?')
        *request->query++ = '\0';
    return *target == '/' && path_decode(target) == 0 ? 0 : 400;
}

/* Returns the status for what an open() has failed with. */
static inline int open_status(void)
{
    if (errno == EACCES || errno == EPERM)
        return 403;
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EIO)
        return 500;
    return 404;
}

/* Opens a folder in the one above it. Returns its descriptor, or -1. */
static inline int folder_open(int above, const char *name)
{
    if (strcmp(name, "..") == 0) {
        errno = ENOENT;
        return -1;
    }
    return openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/*
 * Finds the folder that the path's last name is in; if the path ends with a slash, that
 * name is index.html. Returns 0, or a status. The caller closes place->folder.
 */
static inline int place_find(int root, char *path, struct place *place)
{
    int folder = folder_open(root, "."), status = open_status();
    char *name = path + 1, *slash;

    for (; folder >= 0 && (slash = strchr(name, '/')) != NULL; name = slash + 1) {
        int above = folder;
        if (slash == name) /* two slashes are one */
            continue;
        *slash = '\0';
        folder = folder_open(above, name);
        *slash = '/';
        status = open_status();
        close(above);
    }
    if (folder < 0)
        return status;
    *place = (struct place){folder, *name == '\0' ? "index.html" : name};
    return 0;
}

/* Opens a regular file. Returns its descriptor, or -1 and a status. */
static inline int file_open(const struct place *place, struct stat *about, int *status)
{
    /* Nonblocking: a FIFO has to be opened to see that it is one. */
    int fd = openat(place->folder, place->name,
                    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        *status = open_status();
        return -1;
    }
    if (fstat(fd, about) < 0 || !S_ISREG(about->st_mode)) { /* a folder, a device */
        *status = 404;
        close(fd);
        return -1;
    }
    return fd;
}

/* Sends all of len bytes. Returns 0, or -1: the client is gone, or does not read. */
static inline int bytes_send(const struct request *to, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n;
        if (client_wait(to, POLLOUT) < 0)
            return -1;
        n = send(to->client, bytes, len, 0);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -1;
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static inline const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "200 OK";
    case 400:
        return "400 Bad Request";
    case 403:
        return "403 Forbidden";
    case 404:
        return "404 Not Found";
    case 405:
        return "405 Method Not Allowed\r\nAllow: GET, HEAD";
    case 431:
        return "431 Request Header Fields Too Large";
    default:
        return "500 Internal Server Error";
    }
}

/* Sends what precedes a body of len bytes. Returns 0, or -1 as above. */
static inline int head_send(const struct request *to, int status, intmax_t len)
{
    char head[256], body[64] = "";
    int n;

    if (len != UNKNOWN)
        snprintf(body, sizeof body, "Content-Length: %jd\r\n", len);
    n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\n%sConnection: close\r\n\r\n",
                 status_text(status), body);
    return bytes_send(to, head, (size_t)n);
}

/* Sends an answer that says what is wrong. Returns the status, or CLIENT_GONE. */
static inline int failure_send(const struct request *to, int status)
{
    const char *text = status_text(status);
    size_t len = strcspn(text, "\r");

    if (head_send(to, status, (intmax_t)len + 1) == 0 &&
        (to->head || (bytes_send(to, text, len) == 0 && bytes_send(to, "\n", 1) == 0)))
        return status;
    return CLIENT_GONE;
}

#endif
