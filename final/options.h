/*
 * options - what the command line of chatsrv says
 *
 * Interface: options_parse() does not return from wrong usage (one line, exit status 2)
 * nor from -h (the usage, exit status 0).
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "url.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct options {
    const char *address; /* where to listen; NULL: at all of this machine's addresses */
    const char *port;
    struct url room;    /* that is shared with other servers; its host is "": none */
    bool bare;          /* send messages without the sender's address */
    bool proxied;       /* each connection begins with a PROXY header */
    bool quiet;         /* leave the texts of messages out of the log */
    int64_t idle_ms;    /* how long a client may send nothing; 0: for ever */
    int64_t stall_ms;   /* how long it may take nothing while bytes wait; 0: for ever */
    uint64_t lag_max;   /* how many bytes may wait for it */
    size_t clients_max; /* SIZE_MAX: as many as the limit of descriptors allows */
    size_t neighbours;  /* how many of them from one address; SIZE_MAX: any number */
    long rate;          /* messages a second from each of them; 0: any number */
};

struct options options_parse(int argc, char **argv);

#endif
