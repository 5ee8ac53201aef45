/*
 * url - where a room is: redis://[user:password@]host[:port]/room
 *
 * Interface: url_parse() takes the text apart. Pure: nothing is looked up.
 */
#ifndef URL_H
#define URL_H

enum { URL_MAX = 1024 }; /* bytes of the whole text */

#define URL_FORM "redis://[user:password@]host[:port]/room"

struct url {
    char user[URL_MAX];     /* "": the default user */
    char password[URL_MAX]; /* "": none */
    char host[URL_MAX];     /* a name or an address, without brackets */
    char port[sizeof "65535"];
    char room[URL_MAX];
};

/*
 * Parses the text; %XX in user, password and room stands for a byte. Returns NULL, or in
 * words what is wrong. These never show the password.
 */
const char *url_parse(const char *text, struct url *url);

#endif
