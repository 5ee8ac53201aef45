/*
 * unix_name.h - the name of a UNIX socket in the file system, from bind() to the end
 *
 * Interface: unix_bind() gives a socket a name in a folder. The name is a file; it stays
 * when the socket is closed, and while it is there nobody else can have it. So it is
 * removed when the program ends: by exit(), after err() too, and by one of the signals
 * below. A crash or kill -9 leaves it behind; the next bind() then says that the address
 * is in use, and one removes it. (To unlink() whatever is there before bind() is a common
 * remedy, and takes the name away from a server that is running.) A program has one such
 * name.
 */
#ifndef UNIX_NAME_H
#define UNIX_NAME_H

#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un unix_own; /* what is to be removed; no path: nothing */

/* Where sockets meet: the folder asked for, else $TMPDIR, else the current one. */
static inline const char *unix_folder(const char *asked)
{
    const char *folder = asked != NULL ? asked : getenv("TMPDIR");

    return folder != NULL ? folder : ".";
}

/* Returns the address folder/name. A path that does not fit ends the program. */
static inline struct sockaddr_un unix_address(const char *folder, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = sizeof address.sun_path; /* 108 on Linux, 104 elsewhere */
    int len = snprintf(address.sun_path, size, "%s/%s", folder, name);

    if (len < 0 || (size_t)len >= size)
        errx(1, "%s/%s: longer than %zu bytes", folder, name, size - 1);
    return address;
}

/* Takes the name away from where others look for it. Safe in a signal handler. */
static inline void unix_unname(void)
{
    unlink(unix_own.sun_path);
    unix_own.sun_path[0] = '\0';
}

/* ^C, kill, ^\, a terminal that is closed, an output that nobody reads any more. */
static const int DEADLY[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGPIPE};

static inline void unix_on_signal(int number)
{
    unix_unname();
    signal(number, SIG_DFL); /* and so the shell learns what ended the program */
    raise(number);
}

/* Gives the socket the name folder/name. An error ends the program. */
static inline void unix_bind(int fd, const char *folder, const char *name)
{
    struct sockaddr_un address = unix_address(folder, name);

    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "bind %s", address.sun_path);
    unix_own = address;
    atexit(unix_unname);
    for (size_t i = 0; i < sizeof DEADLY / sizeof DEADLY[0]; i++)
        if (signal(DEADLY[i], unix_on_signal) == SIG_IGN)
            signal(DEADLY[i], SIG_IGN); /* by nohup, or by the program itself */
}

/* For the child after fork(): the name is its parent's, and so is its removal. */
static inline void unix_disown(void)
{
    unix_own.sun_path[0] = '\0';
}

#endif
