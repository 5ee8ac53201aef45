/*
 * process - see process.h. Systems: Linux, macOS and the BSDs.
 */
#include "process.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <unistd.h>

enum { DESCRIPTORS_KEPT = 24 };     /* for the log, the loop, listeners and the like */
enum { DESCRIPTORS_MACOS = 10240 }; /* the most that macOS grants */

static struct {
    int pipe[2]; /* from the signal handler into the loop, a byte for each signal */
    enum process_signal asked;
} process;

void process_open(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd < 0)
        err(1, "open /dev/null");
    close(fd);
    signal(SIGPIPE, SIG_IGN); /* sending to a departed client is just an error */
    signal(SIGXFSZ, SIG_IGN); /* and so is a log that may not grow any more */
    signal(SIGTTOU, SIG_IGN); /* and a log on a terminal that is another job's */
}

static size_t descriptors_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        err(1, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        /* macOS names infinity for a limit, and refuses it. */
        limit.rlim_cur = DESCRIPTORS_MACOS;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            err(1, "setrlimit");
    }
    return (size_t)limit.rlim_cur;
}

size_t process_clients(size_t asked)
{
    size_t limit = descriptors_limit();

    if (limit <= DESCRIPTORS_KEPT)
        errx(1, "a limit of %zu descriptors is too low", limit);
    limit -= DESCRIPTORS_KEPT;
    if (asked < SIZE_MAX && asked > limit)
        warnx("-c %zu: the limit of descriptors allows %zu clients", asked, limit);
    return asked < limit ? asked : limit;
}

static void signal_handle(int number)
{
    const char byte = number == SIGHUP ? 'h' : number == SIGCONT ? 'c' : 's';
    int saved = errno;

    (void)!write(process.pipe[1], &byte, 1); /* full: enough signals wait there already */
    errno = saved;
}

static void signal_catch(int number)
{
    struct sigaction action = {.sa_handler = signal_handle, .sa_flags = SA_RESTART};

    if (sigaction(number, &action, NULL) < 0)
        err(1, "sigaction");
}

int process_signals(void)
{
    struct sigaction hangup;

    if (pipe(process.pipe) < 0)
        err(1, "pipe");
    for (int i = 0; i < 2; i++)
        if (fcntl(process.pipe[i], F_SETFL, O_NONBLOCK) < 0)
            err(1, "fcntl");
    if (sigaction(SIGHUP, NULL, &hangup) < 0)
        err(1, "sigaction");
    if (hangup.sa_handler != SIG_IGN)
        signal_catch(SIGHUP);
    signal_catch(SIGINT);
    signal_catch(SIGTERM);
    signal_catch(SIGCONT);
    return process.pipe[0];
}

enum process_signal process_signal(void)
{
    char byte;

    while (read(process.pipe[0], &byte, 1) == 1) {
        if (byte == 'c')
            continue;
        if (process.asked == PROCESS_RUN)
            process.asked = PROCESS_STOP;
        else if (byte != 'h')
            process.asked = PROCESS_END;
    }
    return process.asked;
}
