/*
 * edit - a line editor in one row of a terminal
 *
 * Bytes in, an edited line and screen updates out: no descriptors, no termios, no
 * signals, so all of it can be tested without a terminal. It expects one in raw mode that
 * speaks UTF-8 and knows CR, ESC[J, ESC[7m and ESC[?7l, as all do since the VT100. What
 * is one character, and how wide it is, letter.h knows: call setlocale first.
 *
 * Interface: edit_open; then edit_feed with what is typed and edit_draw after each batch;
 * edit_next when a line has been taken; edit_close in the end.
 *
 * Keys: arrows, Home, End, Delete, Backspace; ^A ^E ^B ^F move, Alt-b Alt-f and Ctrl-Left
 * Ctrl-Right by words; ^D ^H ^K ^U ^W, Alt-Backspace, Alt-d and Ctrl-Delete delete; ^Y
 * brings back what ^K ^U and the keys for words have cut, all of it if they were pressed
 * one after the other; Up, Down, ^P, ^N go through the history. Other keys do nothing.
 * Between ESC[200~ and ESC[201~ (bracketed paste) all is text, and a line end does not
 * send.
 *
 * It leaves out, on purpose: more rows than one (a long line scrolls sideways), a search
 * in the history (^R), undo, completion, a history that outlives the program.
 */
#ifndef EDIT_H
#define EDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "utf8.h"

enum {
    EDIT_MAX = 65536,   /* bytes in the line: a long paste; more is refused with a bell */
    EDIT_HISTORY = 100, /* lines remembered */
    EDIT_KEY_MAX = 16   /* bytes of the longest escape sequence that can be a key */
};

/* What the user has asked for. */
enum edit_event {
    EDIT_NONE,  /* nothing but editing */
    EDIT_LINE,  /* Enter: text[0..len) is the line; edit_next starts the next one */
    EDIT_END,   /* ^D in an empty line */
    EDIT_REDRAW /* ^L: the whole screen */
};

struct edit_entry {
    char *bytes; /* NULL: there is none */
    size_t len;
};

struct edit {
    char text[EDIT_MAX]; /* the line: always valid UTF-8; newlines come from pastes */
    size_t len;          /* its bytes */
    size_t cursor;       /* bytes before the cursor */
    const char *prompt;
    int prompt_columns, columns; /* of the prompt, of the window */
    bool bell;                   /* a key could not be obeyed: the next draw rings */

    char killed[EDIT_MAX]; /* for ^Y */
    size_t killed_len;
    bool killing, cut; /* the last key has cut: what the next one cuts is added */

    struct edit_entry history[EDIT_HISTORY]; /* oldest first */
    /* The same as they have been changed; the last one is the new line. */
    struct edit_entry edits[EDIT_HISTORY + 1];
    size_t remembered; /* entries in the history */
    size_t recalled;   /* which one is being edited */

    char key[EDIT_KEY_MAX]; /* the bytes so far of an escape sequence */
    size_t key_len;
    char part[UTF8_MAX]; /* the bytes so far of a character */
    size_t part_len;
    bool part_unwanted; /* it belongs to a key, as Alt-é */
    bool pasting, after_return;
    bool paste_cut; /* some of the paste did not fit: the rest would leave a hole */
};

/* Starts with an empty line. The prompt is ASCII and stays the caller's. */
void edit_open(struct edit *e, const char *prompt, int columns);

/* Frees the history. */
void edit_close(struct edit *e);

/* The window is `columns` wide from now on. */
void edit_resize(struct edit *e, int columns);

/*
 * Takes typed bytes, in pieces of any size, until they are used up or mean something to
 * the caller. Stores how many were used: feed the rest when the event has been dealt
 * with.
 */
enum edit_event edit_feed(struct edit *e, const char *bytes, size_t len, size_t *used);

/* Remembers the line, unless it is empty or the same again, and starts an empty one. */
void edit_next(struct edit *e);

/*
 * Writes the row: the prompt, the line around the cursor, the cursor in its place. `<`
 * and `>` at an edge mean that the line goes on there.
 */
void edit_draw(struct edit *e, FILE *out);

/* Clears the row, for other text to be written there. */
void edit_hide(FILE *out);

/* Writes the row, to be left on the screen, and goes to the next one. */
void edit_leave(struct edit *e, FILE *out);

#endif
