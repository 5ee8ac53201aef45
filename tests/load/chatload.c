/*
 * chatload.c - a load tester for chat servers, in one process and one thread
 *
 *   chatload -m hold      open connections, wait for every greeting, hold them, close
 *   chatload -m churn     connect, wait for the greeting, close; again and again
 *   chatload -m broadcast send messages, check every delivery
 *   chatload -m slow      the same, while some clients never read
 *   chatload -m latency   send at a fixed rate: how long do deliveries take?
 *   chatload -m events    no server: what does an event cost among idle descriptors?
 *
 * At the end it prints one line of key=value pairs. Exit codes: 0 if all was well; 1 if
 * anything was lost, changed, out of order or late, with one line on stderr; 2 on wrong
 * usage. chatload.h says which file does what. `make bench` builds and runs it.
 */
#include "../../final/evloop.h"
#include "chatload.h"

#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* The chat speaks the assignment's protocol; for the others see their manuals. */
static const struct dialect dialects[] = {
    {
        .name = "chat",
        .member = {"", 1, "Welcome"},
        .send_before = "",
        .send_after = "\n",
        .receive_before = "",
        .receive_after = "\n",
        .receipt = "",
        .same_order = true,
    },
    {
        .name = "redis",
        .member = {"SUBSCRIBE chat\r\n", 6, ":1"},
        .publisher = {"PING\r\n", 1, "+PONG"},
        .send_before = "*3\r\n$7\r\nPUBLISH\r\n$4\r\nchat\r\n$#\r\n",
        .send_after = "\r\n",
        .receive_before = "*3\r\n$7\r\nmessage\r\n$4\r\nchat\r\n$#\r\n",
        .receive_after = "\r\n",
        .receipt = ":@\r\n",
        .same_order = true,
    },
    {
        .name = "nats",
        .member = {"CONNECT {\"verbose\":false}\r\nSUB chat 1\r\nPING\r\n", 2, "PONG"},
        .send_before = "PUB chat #\r\n",
        .send_after = "\r\n",
        .receive_before = "MSG chat 1 #\r\n",
        .receive_after = "\r\n",
        .receipt = "",
        .ping = "PING\r\n",
        .pong = "PONG\r\n",
    },
};

/* The first one is the default. */
static const struct mode modes[] = {
    {.name = "broadcast", .run = mode_broadcast, .fans_out = true},
    {.name = "slow", .run = mode_broadcast, .fans_out = true, .stalled = 10},
    {.name = "latency", .run = mode_latency, .fans_out = true},
    {.name = "hold", .run = mode_hold},
    {.name = "churn", .run = mode_churn},
    {.name = "events", .run = mode_events, .serverless = true},
};

enum { STALLED_UNSAID = -1 }; /* as many as the mode has by default */

enum { PREFIX_MAX = 64 };   /* bytes; room for any address */
enum { PID_MAX = 4194304 }; /* Linux's limit; a larger one overflows a clockid_t */

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char usage[] =
    "usage: chatload [options] [host] port\n"
    "       chatload -m events [-c idle] [-n events]\n"
    "  -m mode      hold, churn, broadcast, slow, latency or events (broadcast)\n"
    "  -c clients   connections that receive (100)\n"
    "  -s senders   how many of them send (1)\n"
    "  -b bytes     length of a message, newline excluded, 16 to 1024 (64)\n"
    "  -w window    messages, or connects, in flight at most (32)\n"
    "  -n messages  how many to measure; in churn connections (10000)\n"
    "  -u messages  how many to send before measuring (0)\n"
    "  -k clients   further clients that never read (0; in slow 10)\n"
    "  -f clients   further clients that send without a pause, in dialect chat (0)\n"
    "  -r rate      messages per second, in latency (1000)\n"
    "  -i seconds   how long to hold, in hold (1)\n"
    "  -t seconds   deadline of every greeting and delivery (10)\n"
    "  -p pid       the server's process: shows its CPU time and memory\n"
    "  -d dialect   chat, redis or nats (chat)\n"
    "  -x prefix    what the server puts before each message, if anything\n"
    "  -h           this text\n";

_Noreturn static void fail_usage(const char *what, const char *value)
{
    fprintf(stderr, "chatload: %s '%s'\n%s", what, value, usage);
    exit(2);
}

static size_t number_parse(const char *text, unsigned long min, unsigned long max)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || number < min || number > max)
        fail_usage("not a number that fits:", text);
    return number;
}

static uint64_t seconds_parse(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds >= 0 && seconds <= 86400))
        fail_usage("not a time in seconds:", text);
    return (uint64_t)(seconds * SECOND);
}

static const struct mode *mode_parse(const char *text)
{
    for (size_t i = 0; i < COUNT(modes); i++)
        if (strcmp(text, modes[i].name) == 0)
            return &modes[i];
    fail_usage("no such mode:", text);
}

static const struct dialect *dialect_parse(const char *text)
{
    for (size_t i = 0; i < COUNT(dialects); i++)
        if (strcmp(text, dialects[i].name) == 0)
            return &dialects[i];
    fail_usage("no such dialect:", text);
}

/* The options that are plain numbers. */
static const struct number {
    int letter;
    size_t offset; /* in struct options */
    unsigned long min, max;
} numbers[] = {
    {'c', offsetof(struct options, clients), 1, 5000000},
    {'s', offsetof(struct options, senders), 1, 99999}, /* five digits in a message */
    /* from a message's header to the chat's limit */
    {'b', offsetof(struct options, bytes), 16, BYTES_MAX},
    {'w', offsetof(struct options, window), 1, 100000},
    {'n', offsetof(struct options, messages), 1, 499999999}, /* with the digits before: */
    {'u', offsetof(struct options, warmup), 0, 499999999},   /* nine digits */
    {'k', offsetof(struct options, stalled), 0, 100000},
    {'f', offsetof(struct options, flooders), 0, 1000},
    {'r', offsetof(struct options, rate), 1, 100000},
};

static void option_parse(struct options *options, int letter, const char *value)
{
    for (size_t i = 0; i < COUNT(numbers); i++)
        if (numbers[i].letter == letter) {
            size_t number = number_parse(value, numbers[i].min, numbers[i].max);
            memcpy((char *)options + numbers[i].offset, &number, sizeof number);
            return;
        }
    if (letter == 'm')
        options->mode = mode_parse(value);
    else if (letter == 'i')
        options->idle = seconds_parse(value);
    else if (letter == 't')
        options->deadline = seconds_parse(value);
    else if (letter == 'p')
        options->pid = (pid_t)number_parse(value, 1, PID_MAX);
    else if (letter == 'd')
        options->dialect = dialect_parse(value);
    else if (letter == 'x' && strlen(value) <= PREFIX_MAX)
        options->prefix = value;
    else
        fail_usage("too long:", value);
}

/* Fills options, or ends the program. */
static void options_parse(struct options *options, int argc, char *argv[])
{
    int letter;

    *options = (struct options){.mode = &modes[0],
                                .dialect = &dialects[0],
                                .host = "127.0.0.1",
                                .clients = 100,
                                .senders = 1,
                                .stalled = (size_t)STALLED_UNSAID,
                                .bytes = 64,
                                .window = 32,
                                .messages = 10000,
                                .rate = 1000,
                                .idle = SECOND,
                                .deadline = 10ull * SECOND};
    while ((letter = getopt(argc, argv, "m:c:s:b:w:n:u:k:f:r:i:t:p:d:x:h")) != -1) {
        if (letter == 'h' || letter == '?') {
            fputs(usage, letter == 'h' ? stdout : stderr);
            exit(letter == 'h' ? 0 : 2);
        }
        option_parse(options, letter, optarg);
    }
    if (argc - optind == 2)
        options->host = argv[optind++];
    options->port = argc - optind == 1 ? argv[optind] : NULL;
    if (options->stalled == (size_t)STALLED_UNSAID)
        options->stalled = options->mode->stalled;
}

/* Ends the program unless the options fit together. */
static void options_check(const struct options *options)
{
    bool publishers = options->dialect->publisher.request != NULL;

    if (!options->port && !options->mode->serverless)
        fail_usage("a port is missing in mode", options->mode->name);
    if (!publishers && options->senders > options->clients)
        fail_usage("more senders than clients in dialect", options->dialect->name);
    if (options->dialect != &dialects[0] && options->flooders > 0)
        fail_usage("no client can flood in dialect", options->dialect->name);
}

/* Raises the limit of descriptors if need be. Returns the limit after that. */
static size_t descriptors_raise(size_t needed)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        fail_errno("getrlimit");
    if (files.rlim_cur < (rlim_t)needed) {
        files.rlim_cur =
            (rlim_t)needed < files.rlim_max ? (rlim_t)needed : files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files); /* may be refused or cut: so ask again */
        getrlimit(RLIMIT_NOFILE, &files);
    }
    return (size_t)files.rlim_cur;
}

/* Ends the program if the system does not allow as many descriptors as are needed. */
static void descriptors_check(const struct options *options)
{
    enum { OTHERS = 16 }; /* standard streams, the loop, the resolver's */
    size_t connections =
        options->clients + options->stalled + options->flooders + options->senders;
    size_t allowed = descriptors_raise(connections + OTHERS);

    if (allowed < connections + OTHERS)
        fail("%zu connections need %zu descriptors, but the system allows only %zu "
             "(ulimit -n; ulimit -Hn)",
             connections, connections + OTHERS, allowed);
}

static void address_find(struct load *load)
{
    const struct options *options = &load->options;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(options->host, options->port, &hints, &found);

    if (error)
        fail("%s port %s: %s", options->host, options->port, gai_strerror(error));
    memcpy(&load->address, found->ai_addr, found->ai_addrlen);
    load->address_len = found->ai_addrlen;
    freeaddrinfo(found);
}

int main(int argc, char *argv[])
{
    struct load load = {.loop = -1};

    options_parse(&load.options, argc, argv);
    options_check(&load.options);
    signal(SIGPIPE, SIG_IGN);
    descriptors_check(&load.options);
    if (load.options.port)
        address_find(&load);
    load.loop = evloop_open();
    if (load.loop < 0)
        fail_errno("evloop_open");
    load.options.mode->run(&load);
    return 0;
}
