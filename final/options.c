/*
 * options - see options.h. Systems: Linux, macOS and the BSDs.
 */
#include "options.h"
#include "rate.h"

#include <err.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: chatsrv [-hnpq] [-l address] [-j url] [-t seconds] [-s seconds]\n"
    "               [-b bytes] [-c clients] [-i clients] [-r messages] [port]\n"
    "  -l address  listen there only (by default at all of this machine's addresses)\n"
    "  -j url      join a room of many servers, which is a stream in Redis:\n"
    "              " URL_FORM "; the password may be in REDISCLI_AUTH\n"
    "  -t seconds  disconnect a client that sends nothing for this long (0: never)\n"
    "  -s seconds  disconnect a client whose kernel takes no byte for this long\n"
    "              (60; 0: never)\n"
    "  -b bytes    disconnect a client that lags farther behind than this (16777216)\n"
    "  -c clients  serve at most this many (by default as many as descriptors allow)\n"
    "  -i clients  serve at most this many from one address (an IPv6 /64 counts as one)\n"
    "  -r messages take at most this many a second from each client, and ten times as\n"
    "              many in a burst; what it sends faster waits in its socket\n"
    "  -n          send messages without the sender's address before them\n"
    "  -p          expect a PROXY header (version 1 or 2) before each connection\n"
    "  -q          leave the texts of messages out of the log\n"
    "  -h          show this text\n"
    "The port is 3100 unless given; 0 stands for any free one.\n";

/* Returns the number that the text is, or ends the program. */
static long number_parse(const char *what, const char *text, long min, long max)
{
    char *end;
    long number;

    errno = 0;
    number = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || number < min || number > max)
        errx(2, "%s: \"%s\" is not a number from %ld to %ld", what, text, min, max);
    return number;
}

/* A password in the environment is seen by fewer people than one on a command line. */
static void room_parse(const char *text, struct url *room)
{
    const char *wrong = url_parse(text, room), *password = getenv("REDISCLI_AUTH");

    if (wrong != NULL)
        errx(2, "-j: %s", wrong);
    if (room->password[0] != '\0' || password == NULL)
        return;
    if (strlen(password) >= sizeof room->password)
        errx(2, "REDISCLI_AUTH: a password has at most %d bytes", URL_MAX - 1);
    memcpy(room->password, password, strlen(password) + 1);
}

static void usage(void)
{
    if (fputs(USAGE, stdout) < 0 || fflush(stdout) != 0)
        err(1, "write standard output");
    exit(0);
}

struct options options_parse(int argc, char **argv)
{
    struct options options = {.port = "3100",
                              .stall_ms = 60000,
                              .lag_max = 16 << 20,
                              .clients_max = SIZE_MAX,
                              .neighbours = SIZE_MAX};
    int option;

    opterr = 0; /* one line is enough: ours */
    while ((option = getopt(argc, argv, ":hnpql:j:t:s:b:c:i:r:")) != -1) {
        switch (option) {
        case 'l':
            options.address = optarg;
            break;
        case 'j':
            room_parse(optarg, &options.room);
            break;
        case 't':
            options.idle_ms = 1000 * (int64_t)number_parse("-t", optarg, 0, 1000000);
            break;
        case 's':
            options.stall_ms = 1000 * (int64_t)number_parse("-s", optarg, 0, 1000000);
            break;
        case 'b':
            options.lag_max = (uint64_t)number_parse("-b", optarg, 1, LONG_MAX);
            break;
        case 'c':
            options.clients_max = (size_t)number_parse("-c", optarg, 1, INT_MAX);
            break;
        case 'i':
            options.neighbours = (size_t)number_parse("-i", optarg, 1, INT_MAX);
            break;
        case 'r':
            options.rate = number_parse("-r", optarg, 1, RATE_MAX);
            break;
        case 'p':
            options.proxied = true;
            break;
        case 'q':
            options.quiet = true;
            break;
        case 'n':
            options.bare = true;
            break;
        case 'h':
            usage();
            break;
        case ':':
            errx(2, "-%c needs a value; chatsrv -h explains", optopt);
        default:
            errx(2, "-%c is not an option; chatsrv -h explains", optopt);
        }
    }
    if (argc - optind > 1)
        errx(2, "\"%s\" is one argument too many; chatsrv -h explains", argv[optind + 1]);
    if (optind < argc) {
        number_parse("port", argv[optind], 0, 65535);
        options.port = argv[optind];
    }
    return options;
}
