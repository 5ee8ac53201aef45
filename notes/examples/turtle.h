/*
 * turtle.h - the turtle: where it is and what it says; knows nothing of sockets
 *
 * Interface: a line of text goes in, a line of text comes out, turtle_answer().
 *
 *     run DX DY    moves it              Turtle travel to <13:10>
 *     say TEXT     makes it talk         Turtle said "hello"
 *
 * `quit` and `_exit` are for the server; command_find() tells which command a line is.
 */
#ifndef TURTLE_H
#define TURTLE_H

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TURTLE_LINE = 100 };     /* bytes of a command; the rest of its line is dropped */
enum { TURTLE_ANSWER = 128 };   /* bytes that hold any answer and a '\0' */
enum { TURTLE_STEP = 1000000 }; /* the turtle goes no farther at once, so sums fit */

struct turtle {
    long long x, y;
};

/* Makes len bytes a string that is safe to print: what is no text becomes a dot. */
static inline void text_make(char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (iscntrl((unsigned char)bytes[i]))
            bytes[i] = '.';
    bytes[len] = '\0';
}

/* Returns what follows the command's word in the line, or NULL if it is another one. */
static inline const char *command_find(const char *line, const char *word)
{
    size_t len = strlen(word);

    if (strncmp(line, word, len) != 0 || (line[len] != '\0' && line[len] != ' '))
        return NULL;
    return line + len + strspn(line + len, " ");
}

/* Reads one step from text, moves text behind it. Returns 0, or -1 if there is none. */
static inline int step_parse(const char **text, long *step)
{
    char *end;

    *step = strtol(*text, &end, 10);
    if (end == *text)
        return -1;
    if (*step > TURTLE_STEP)
        *step = TURTLE_STEP;
    if (*step < -TURTLE_STEP)
        *step = -TURTLE_STEP;
    *text = end;
    return 0;
}

/* Obeys a line; the answer, without '\n', is written to answer[TURTLE_ANSWER]. */
static inline void turtle_answer(struct turtle *turtle, const char *line, char *answer)
{
    const char *text;
    long dx, dy;

    if ((text = command_find(line, "run")) != NULL) {
        if (step_parse(&text, &dx) < 0 || step_parse(&text, &dy) < 0) {
            snprintf(answer, TURTLE_ANSWER, "not enough args: need two");
            return;
        }
        turtle->x += dx;
        turtle->y += dy;
        snprintf(answer, TURTLE_ANSWER, "Turtle travel to <%lld:%lld>", turtle->x,
                 turtle->y);
    } else if ((text = command_find(line, "say")) != NULL) {
        if (*text != '\0')
            snprintf(answer, TURTLE_ANSWER, "Turtle said \"%s\"", text);
        else
            snprintf(answer, TURTLE_ANSWER, "Turtle says nothing");
    } else {
        snprintf(answer, TURTLE_ANSWER, "Turtle does not know this command");
    }
}

#endif
