/*
 * dial - see dial.h. Systems: Linux, macOS and the BSDs.
 */
#include "dial.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child has found: it is written to the pipe as it is. */
struct answer {
    int error; /* of getaddrinfo */
    int error_system;
    size_t known;
    struct dial_address list[DIAL_MAX];
};

/* ---- the child ---- */

static void host_look_up(const char *host, const char *port, struct answer *answer)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;

    answer->error = getaddrinfo(host, port, &hints, &list);
    answer->error_system = errno;
    if (answer->error != 0)
        return;
    for (struct addrinfo *a = list; a != NULL && answer->known < DIAL_MAX; a = a->ai_next)
        if (a->ai_addrlen <= sizeof answer->list[0].address) {
            struct dial_address *to = &answer->list[answer->known++];

            to->len = a->ai_addrlen;
            memcpy(&to->address, a->ai_addr, a->ai_addrlen);
        }
    freeaddrinfo(list);
}

/* The terminal is none of its business: no handlers, and nobody waits for it to close. */
static void child_run(const char *host, const char *port, int pipe)
{
    static struct answer answer;

    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        close(fd);
    host_look_up(host, port, &answer);
    _exit(write(pipe, &answer, sizeof answer) == sizeof answer ? 0 : 1);
}

/* ---- the parent ---- */

int dial_open(struct dial *dial, const char *host, const char *port)
{
    int ends[2];

    *dial = (struct dial){.pipe = -1};
    if (pipe(ends) < 0)
        return -1;
    dial->child = fork();
    if (dial->child == 0)
        child_run(host, port, ends[1]);
    close(ends[1]);
    dial->pipe = ends[0];
    if (dial->child > 0)
        return dial->pipe;
    int error = errno;
    close(dial->pipe);
    dial->child = 0;
    errno = error;
    return -1;
}

/* The answer comes in one piece, or nearly so: waiting for its end takes no time. */
const char *dial_found(struct dial *dial)
{
    struct answer answer;
    size_t len = 0;
    ssize_t got;

    do {
        got = read(dial->pipe, (char *)&answer + len, sizeof answer - len);
        if (got > 0)
            len += (size_t)got;
    } while (got > 0 || (got < 0 && errno == EINTR));
    dial_close(dial);
    if (len < sizeof answer)
        return "The process that looks it up has died";
    if (answer.error == EAI_SYSTEM)
        return strerror(answer.error_system);
    if (answer.error != 0)
        return gai_strerror(answer.error);
    dial->known = answer.known;
    memcpy(dial->list, answer.list, sizeof answer.list);
    return NULL;
}

/* A connect(2) that a signal interrupts goes on by itself, as one in progress does. */
static int address_connect(const struct dial_address *to)
{
    int fd = socket(to->address.ss_family, SOCK_STREAM, 0);
    int error;

    if (fd < 0)
        return -1;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
        (connect(fd, (const struct sockaddr *)&to->address, to->len) == 0 ||
         errno == EINPROGRESS || errno == EINTR))
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int dial_next(struct dial *dial)
{
    while (dial->next < dial->known) {
        int fd = address_connect(&dial->list[dial->next++]);

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
    if (dial->child == 0)
        return;
    kill(dial->child, SIGKILL);
    while (waitpid(dial->child, NULL, 0) < 0 && errno == EINTR)
        continue;
    close(dial->pipe);
    dial->child = 0;
}
