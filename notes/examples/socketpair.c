/*
 * socketpair.c - a pipe that goes both ways, between two processes
 *
 * A process makes a pair of connected sockets and forks. Each side keeps one end and
 * closes the other. The parent asks, the child answers on the very descriptor it has read
 * from.
 *
 * Run:  socketpair
 * See:  child: the question is "how long am I?"
 *       parent: the answer is "14 bytes"
 * Try:  Take out shutdown(): the child waits for the end of the question, the parent for
 *       the answer, for ever. Or take out the parent's close(pair[1]): the answer comes,
 *       but not its end, because the parent itself still holds the end that has to close.
 */
#include <err.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TEXT_MAX = 100 }; /* bytes of a question or an answer */

/* A write may take only a part of the bytes: the rest is offered again. */
static void write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0)
            err(1, "write");
        bytes += n;
        len -= (size_t)n;
    }
}

/* A read brings what has come so far: only the end of file says that this was all. */
static size_t read_to_end(int fd, char *bytes, size_t max)
{
    size_t len = 0;
    ssize_t n;

    while (len < max && (n = read(fd, bytes + len, max - len)) != 0) {
        if (n < 0)
            err(1, "read");
        len += (size_t)n;
    }
    return len;
}

static void child_run(int fd)
{
    char question[TEXT_MAX], answer[TEXT_MAX];
    size_t len = read_to_end(fd, question, sizeof question);

    printf("child: the question is \"%.*s\"\n", (int)len, question);
    snprintf(answer, sizeof answer, "%zu bytes", len);
    write_all(fd, answer, strlen(answer));
    close(fd);
}

static void parent_run(int fd)
{
    const char question[] = "how long am I?";
    char answer[TEXT_MAX];
    size_t len;

    write_all(fd, question, strlen(question));
    if (shutdown(fd, SHUT_WR) < 0) /* the question; close() would end the answer too */
        err(1, "shutdown");
    len = read_to_end(fd, answer, sizeof answer);
    printf("parent: the answer is \"%.*s\"\n", (int)len, answer);
    close(fd);
}

int main(void)
{
    int pair[2], status;
    pid_t pid;

    setvbuf(stdout, NULL, _IOLBF, 0); /* else what is buffered at fork() appears twice */
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        err(1, "socketpair");
    if ((pid = fork()) < 0)
        err(1, "fork");
    if (pid == 0) {
        close(pair[0]);
        child_run(pair[1]);
        return 0;
    }
    close(pair[1]);
    parent_run(pair[0]);
    if (waitpid(pid, &status, 0) < 0)
        err(1, "waitpid");
    return status == 0 ? 0 : 1;
}
