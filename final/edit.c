/*
 * edit - see edit.h. Systems: Linux, macOS and the BSDs.
 *
 * The line is kept in valid UTF-8: a byte that is none enters it as U+FFFD. So the cursor
 * can step from character to character without asking what it might land in. A character
 * here is what a terminal shows in one place: a code point and its combining marks, the
 * code points of no width behind it.
 */
#define _XOPEN_SOURCE 700 /* wcwidth(3) */

#include "edit.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define ESC "\x1b"
#define CTRL(letter) ((letter) - '@')
enum { DELETE = 0x7f };

enum { COLUMNS_MIN = 8, COLUMNS_DEFAULT = 80 };

void edit_open(struct edit *e, const char *prompt, int columns)
{
    memset(e, 0, sizeof *e);
    e->prompt = prompt;
    e->prompt_columns = (int)strlen(prompt);
    edit_resize(e, columns);
}

void edit_close(struct edit *e)
{
    for (size_t i = 0; i <= EDIT_HISTORY; i++)
        free(e->history[i].bytes);
}

/*
 * A terminal that does not know its size says 0. Most terminals break a row that is wider
 * than they have become in two or more: the next draw begins where the first one does.
 */
void edit_resize(struct edit *e, int columns)
{
    if (columns <= 0)
        columns = COLUMNS_DEFAULT;
    e->columns = columns < COLUMNS_MIN ? COLUMNS_MIN : columns;
    e->rows_above = e->drawn_cursor / e->columns;
}

/* ---- characters ---- */

static uint32_t point_at(const struct edit *e, size_t at)
{
    uint32_t point = 0;
    utf8_decode(e->text + at, e->len - at, &point);
    return point;
}

/* One column for the mark that stands for a control, and for what wcwidth rejects. */
static int columns_at(const struct edit *e, size_t at)
{
    uint32_t point = point_at(e, at);
    int columns = utf8_printable(point) ? wcwidth((wchar_t)point) : 1;
    return columns < 0 ? 1 : columns;
}

static bool continues(const struct edit *e, size_t at)
{
    return ((unsigned char)e->text[at] & 0xc0) == 0x80;
}

/* Where the character before `at` begins; `at` is not 0. */
static size_t char_before(const struct edit *e, size_t at)
{
    do {
        at--;
    } while (at > 0 && (continues(e, at) || columns_at(e, at) == 0));
    return at;
}

/* Where the character at `at` ends; `at` is not len. */
static size_t char_after(const struct edit *e, size_t at)
{
    do {
        at++;
    } while (at < e->len && (continues(e, at) || columns_at(e, at) == 0));
    return at;
}

static bool space_at(const struct edit *e, size_t at)
{
    return e->text[at] == ' ' || e->text[at] == '\t' || e->text[at] == '\n';
}

static size_t word_before(const struct edit *e, size_t at)
{
    while (at > 0 && space_at(e, at - 1))
        at--;
    while (at > 0 && !space_at(e, at - 1))
        at--;
    return at;
}

static size_t word_after(const struct edit *e, size_t at)
{
    while (at < e->len && space_at(e, at))
        at++;
    while (at < e->len && !space_at(e, at))
        at++;
    return at;
}

/* ---- changes ---- */

static void text_insert(struct edit *e, const char *bytes, size_t len)
{
    char *here = e->text + e->cursor;

    if (len > EDIT_MAX - e->len) {
        e->bell = true;
        return;
    }
    memmove(here + len, here, e->len - e->cursor);
    memcpy(here, bytes, len);
    e->len += len;
    e->cursor += len;
}

static void text_delete(struct edit *e, size_t from, size_t to)
{
    memmove(e->text + from, e->text + to, e->len - to);
    e->len -= to - from;
    e->cursor = from;
}

static void text_kill(struct edit *e, size_t from, size_t to)
{
    e->killed_len = to - from;
    memcpy(e->killed, e->text + from, e->killed_len);
    text_delete(e, from, to);
}

/* ---- history: entries [0, remembered), and behind them the line not sent yet ---- */

static bool entry_set(struct edit_entry *entry, const char *bytes, size_t len)
{
    char *copy = realloc(entry->bytes, len + 1); /* + 1: never 0, which may give NULL */
    if (copy == NULL)
        return false;
    memcpy(copy, bytes, len);
    entry->bytes = copy;
    entry->len = len;
    return true;
}

/* Is the line the same as the entry? */
static bool entry_same(const struct edit *e, size_t which)
{
    const struct edit_entry *entry = &e->history[which];

    return entry->len == e->len && memcmp(entry->bytes, e->text, e->len) == 0;
}

static void history_recall(struct edit *e, size_t which)
{
    const struct edit_entry *entry = &e->history[which];

    memcpy(e->text, entry->bytes, entry->len);
    e->len = e->cursor = entry->len;
    e->recalled = which;
}

/* Out of memory: the line is just not remembered. */
static void history_add(struct edit *e)
{
    if (e->len == 0 || (e->remembered > 0 && entry_same(e, e->remembered - 1)))
        return;
    if (!entry_set(&e->history[e->remembered], e->text, e->len))
        return;
    if (e->remembered < EDIT_HISTORY) {
        e->remembered++;
        return;
    }
    free(e->history[0].bytes);
    memmove(e->history, e->history + 1, EDIT_HISTORY * sizeof e->history[0]);
    e->history[EDIT_HISTORY] = (struct edit_entry){NULL, 0};
}

void edit_next(struct edit *e)
{
    history_add(e);
    e->recalled = e->remembered;
    e->len = e->cursor = 0;
}

/* ---- what keys do ---- */

static void on_left(struct edit *e)
{
    if (e->cursor > 0)
        e->cursor = char_before(e, e->cursor);
}

static void on_right(struct edit *e)
{
    if (e->cursor < e->len)
        e->cursor = char_after(e, e->cursor);
}

static void on_home(struct edit *e)
{
    e->cursor = 0;
}

static void on_end(struct edit *e)
{
    e->cursor = e->len;
}

static void on_word_left(struct edit *e)
{
    e->cursor = word_before(e, e->cursor);
}

static void on_word_right(struct edit *e)
{
    e->cursor = word_after(e, e->cursor);
}

static void on_backspace(struct edit *e)
{
    if (e->cursor > 0)
        text_delete(e, char_before(e, e->cursor), e->cursor);
}

static void on_delete(struct edit *e)
{
    if (e->cursor < e->len)
        text_delete(e, e->cursor, char_after(e, e->cursor));
}

static void on_kill_rest(struct edit *e)
{
    text_kill(e, e->cursor, e->len);
}

static void on_kill_start(struct edit *e)
{
    text_kill(e, 0, e->cursor);
}

static void on_kill_word(struct edit *e)
{
    text_kill(e, word_before(e, e->cursor), e->cursor);
}

static void on_yank(struct edit *e)
{
    text_insert(e, e->killed, e->killed_len);
}

static void on_older(struct edit *e)
{
    struct edit_entry *unsent = &e->history[e->remembered];

    if (e->recalled == 0)
        return;
    if (e->recalled == e->remembered && !entry_set(unsent, e->text, e->len))
        return;
    history_recall(e, e->recalled - 1);
}

static void on_newer(struct edit *e)
{
    if (e->recalled < e->remembered)
        history_recall(e, e->recalled + 1);
}

static void on_paste(struct edit *e)
{
    e->pasting = true;
    e->after_return = false;
}

static const struct {
    const char *bytes;
    void (*act)(struct edit *e);
} keys[] = {
    {"\x01", on_home},       /* ^A */
    {"\x02", on_left},       /* ^B */
    {"\x04", on_delete},     /* ^D */
    {"\x05", on_end},        /* ^E */
    {"\x06", on_right},      /* ^F */
    {"\x08", on_backspace},  /* ^H */
    {"\x0b", on_kill_rest},  /* ^K */
    {"\x0e", on_newer},      /* ^N */
    {"\x10", on_older},      /* ^P */
    {"\x15", on_kill_start}, /* ^U */
    {"\x17", on_kill_word},  /* ^W */
    {"\x19", on_yank},       /* ^Y */
    {"\x7f", on_backspace},  /* Backspace */
    {ESC "[A", on_older},    /* Up; ESC[ or ESCO depends on the terminal's mode */
    {ESC "OA", on_older},
    {ESC "[B", on_newer}, /* Down */
    {ESC "OB", on_newer},
    {ESC "[C", on_right}, /* Right */
    {ESC "OC", on_right},
    {ESC "[D", on_left}, /* Left */
    {ESC "OD", on_left},
    {ESC "[H", on_home}, /* Home */
    {ESC "OH", on_home},
    {ESC "[1~", on_home},
    {ESC "[7~", on_home}, /* rxvt */
    {ESC "[F", on_end},   /* End */
    {ESC "OF", on_end},
    {ESC "[4~", on_end},
    {ESC "[8~", on_end},          /* rxvt */
    {ESC "[3~", on_delete},       /* Delete */
    {ESC "[1;5C", on_word_right}, /* Ctrl-Right, Alt-Right, Alt-f */
    {ESC "[1;3C", on_word_right},
    {ESC "f", on_word_right},
    {ESC "[1;5D", on_word_left}, /* Ctrl-Left, Alt-Left, Alt-b */
    {ESC "[1;3D", on_word_left},
    {ESC "b", on_word_left},
    {ESC "\x7f", on_kill_word}, /* Alt-Backspace */
    {ESC "[200~", on_paste}     /* bracketed paste begins */
};

/* Does what a key says; false if the bytes are none of ours. */
static bool key_act(struct edit *e, const char *bytes, size_t len)
{
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strlen(keys[i].bytes) == len && memcmp(keys[i].bytes, bytes, len) == 0) {
            keys[i].act(e);
            return true;
        }
    return false;
}

/* ---- from bytes to keys and text ---- */

/* Adds a byte of text. False: it does not continue the character before it. */
static bool text_byte(struct edit *e, char byte)
{
    bool first = e->part_len == 0;
    uint32_t point;

    e->part[e->part_len++] = byte;
    int length = utf8_decode(e->part, e->part_len, &point);
    if (length == UTF8_INCOMPLETE)
        return true;
    if (length == UTF8_INVALID)
        text_insert(e, "\xef\xbf\xbd", 3); /* U+FFFD, the replacement character */
    else
        text_insert(e, e->part, e->part_len);
    e->part_len = 0;
    return first || length != UTF8_INVALID;
}

/* Adds a byte of an escape sequence. False: it is no part of one, and counts as typed. */
static bool key_byte(struct edit *e, char byte)
{
    e->key[e->key_len++] = byte;
    size_t len = e->key_len;
    bool linux_f1 = len == 3 && byte == '['; /* the Linux console sends ESC[[A */
    bool more = len == 2 ? byte == '[' || byte == 'O' : byte >= ' ' && byte <= '?';

    if (len == 1 || linux_f1 || (more && len < EDIT_KEY_MAX))
        return true;
    e->key_len = 0;
    bool known = key_act(e, e->key, len);
    return known || (len > 2 && byte >= '@' && byte <= '~');
}

/* Line ends come as CR, LF or both, and stay in the line as one LF. */
static void paste_text(struct edit *e, char byte)
{
    bool second = byte == '\n' && e->after_return;

    e->after_return = byte == '\r';
    if (second)
        return;
    if (byte == '\r')
        byte = '\n';
    if (!text_byte(e, byte))
        text_byte(e, byte);
}

static void paste_byte(struct edit *e, char byte)
{
    static const char end[] = ESC "[201~";

    if (byte == end[e->key_len]) {
        e->key_len++;
        if (end[e->key_len] == '\0') {
            e->key_len = 0;
            e->pasting = false;
        }
        return;
    }
    /* It only looked like the end: it is text, and the byte at hand may begin anew. */
    size_t taken = e->key_len;
    e->key_len = 0;
    for (size_t i = 0; i < taken; i++)
        paste_text(e, end[i]);
    if (taken > 0)
        paste_byte(e, byte);
    else
        paste_text(e, byte);
}

static enum edit_event on_byte(struct edit *e, char byte)
{
    if (e->pasting) {
        paste_byte(e, byte);
        return EDIT_NONE;
    }
    if (e->part_len > 0)
        return text_byte(e, byte) ? EDIT_NONE : on_byte(e, byte);
    if (e->key_len > 0 || byte == ESC[0])
        return key_byte(e, byte) ? EDIT_NONE : on_byte(e, byte);
    if (byte == '\r' || byte == '\n')
        return EDIT_LINE;
    if (byte == CTRL('L'))
        return EDIT_REDRAW;
    if (byte == CTRL('D') && e->len == 0)
        return EDIT_END;
    bool control = (byte >= 0 && byte < ' ') || byte == DELETE;
    if (control)
        key_act(e, &byte, 1);
    else
        text_byte(e, byte);
    return EDIT_NONE;
}

enum edit_event edit_feed(struct edit *e, const char *bytes, size_t len, size_t *used)
{
    enum edit_event event = EDIT_NONE;

    for (*used = 0; *used < len && event == EDIT_NONE; ++*used)
        event = on_byte(e, bytes[*used]);
    return event;
}

/* ---- the screen ---- */

/* Where the longest text begins that ends at `end` and fits into `room` columns. */
static size_t fit_before(const struct edit *e, size_t end, int room)
{
    size_t start = end;

    while (start > 0) {
        size_t before = char_before(e, start);
        room -= columns_at(e, before);
        if (room < 0)
            break;
        start = before;
    }
    return start;
}

/*
 * Where the visible part of the line begins. The cursor stays in the middle of the row,
 * but no column is wasted: at the line's end all the room goes to the text before it.
 */
static size_t view_start(const struct edit *e, int room)
{
    size_t around_cursor = fit_before(e, e->cursor, room / 2);
    size_t at_line_end = fit_before(e, e->len, room);

    return around_cursor < at_line_end ? around_cursor : at_line_end;
}

static void char_draw(const struct edit *e, size_t at, FILE *out)
{
    size_t end = char_after(e, at);

    if (!utf8_printable(point_at(e, at))) {
        bool tab = e->text[at] == '\t', newline = e->text[at] == '\n';
        fprintf(out, ESC "[7m%s" ESC "[27m", newline ? "↵" : tab ? "→" : "?");
        do {
            at++;
        } while (at < end && continues(e, at));
    }
    fwrite(e->text + at, 1, end - at, out);
}

/* The last column stays free: terminals differ in where the cursor is behind it. */
void edit_draw(struct edit *e, FILE *out)
{
    int room = e->columns - e->prompt_columns - 1;
    int used = 0, cursor = 0;

    if (e->bell)
        fputc('\a', out);
    e->bell = false;
    if (e->rows_above > 0)
        fprintf(out, ESC "[%dA", e->rows_above);
    e->rows_above = 0;
    fprintf(out, "\r%s", e->prompt);
    for (size_t at = view_start(e, room); at < e->len; at = char_after(e, at)) {
        used += columns_at(e, at);
        if (used > room)
            break;
        char_draw(e, at, out);
        if (at < e->cursor)
            cursor = used;
    }
    e->drawn_cursor = e->prompt_columns + cursor;
    fprintf(out, ESC "[J\r" ESC "[%dC", e->drawn_cursor);
}

void edit_hide(struct edit *e, FILE *out)
{
    fputs("\r" ESC "[J", out);
    e->drawn_cursor = 0;
}

void edit_leave(struct edit *e, FILE *out)
{
    fputc('\n', out);
    e->drawn_cursor = 0;
}
