/*
 * edit - see edit.h. Systems: Linux, macOS and the BSDs.
 *
 * The line is kept in valid UTF-8: a byte that is none enters it as U+FFFD. The cursor
 * never stands inside a code point, and moves by letters (letter.h). Where a change or
 * a move by words ends in front of a combining mark, it stands inside a letter: so
 * Backspace takes away just what was typed there.
 */
#include "edit.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "letter.h"

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
    for (size_t i = 0; i < EDIT_HISTORY; i++)
        free(e->history[i].bytes);
    for (size_t i = 0; i <= EDIT_HISTORY; i++)
        free(e->edits[i].bytes);
}

/* A terminal that does not know its size says 0. */
void edit_resize(struct edit *e, int columns)
{
    if (columns <= 0)
        columns = COLUMNS_DEFAULT;
    e->columns = columns < COLUMNS_MIN ? COLUMNS_MIN : columns;
}

/* ---- letters and words ---- */

static size_t char_before(const struct edit *e, size_t at)
{
    return letter_before(e->text, e->len, at);
}

static size_t char_after(const struct edit *e, size_t at)
{
    return letter_after(e->text, e->len, at);
}

/* A single mark stands for a line end or a tab. */
static int columns_at(const struct edit *e, size_t at)
{
    bool marked = e->text[at] == '\n' || e->text[at] == '\t';

    return marked ? 1 : letter_columns(e->text, e->len, at);
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

    e->killing = false;
    if (len > EDIT_MAX - e->len || (e->pasting && e->paste_cut)) {
        e->bell = e->paste_cut = true;
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

/*
 * Cuts what is before the cursor or behind it. There is room to add it to what has just
 * been cut: both were in the line at the same time.
 */
static void text_kill(struct edit *e, size_t from, size_t to)
{
    size_t len = to - from, kept = e->killing ? e->killed_len : 0;

    e->cut = e->killing || len > 0;
    if (len == 0)
        return;
    bool before = to == e->cursor;
    memmove(e->killed + (before ? len : 0), e->killed, kept);
    memcpy(e->killed + (before ? 0 : kept), e->text + from, len);
    e->killed_len = kept + len;
    text_delete(e, from, to);
}

/* ---- history ---- */

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

/* Is the line the same as the newest entry? */
static bool line_again(const struct edit *e)
{
    if (e->remembered == 0)
        return false;
    const struct edit_entry *newest = &e->history[e->remembered - 1];
    return newest->len == e->len && memcmp(newest->bytes, e->text, e->len) == 0;
}

/* Goes to another line; this one stays as it is now, until Enter. */
static void history_recall(struct edit *e, size_t which)
{
    if (!entry_set(&e->edits[e->recalled], e->text, e->len))
        return;
    const struct edit_entry *entry = &e->edits[which];
    if (entry->bytes == NULL)
        entry = &e->history[which];
    memcpy(e->text, entry->bytes, entry->len);
    e->len = e->cursor = entry->len;
    e->recalled = which;
}

/* Out of memory: the line is just not remembered. */
static void history_add(struct edit *e)
{
    if (e->len == 0 || line_again(e))
        return;
    if (e->remembered == EDIT_HISTORY) {
        e->remembered--;
        free(e->history[0].bytes);
        memmove(e->history, e->history + 1, e->remembered * sizeof e->history[0]);
        e->history[e->remembered] = (struct edit_entry){NULL, 0};
    }
    if (entry_set(&e->history[e->remembered], e->text, e->len))
        e->remembered++;
}

void edit_next(struct edit *e)
{
    history_add(e);
    for (size_t i = 0; i <= EDIT_HISTORY; i++) {
        free(e->edits[i].bytes);
        e->edits[i] = (struct edit_entry){NULL, 0};
    }
    e->recalled = e->remembered;
    e->len = e->cursor = 0;
    e->killing = false;
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

static void on_kill_next_word(struct edit *e)
{
    text_kill(e, e->cursor, word_after(e, e->cursor));
}

static void on_yank(struct edit *e)
{
    text_insert(e, e->killed, e->killed_len);
}

static void on_older(struct edit *e)
{
    if (e->recalled > 0)
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
    e->paste_cut = e->after_return = false;
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
    {ESC "Oc", on_word_right}, /* rxvt */
    {ESC "f", on_word_right},
    {ESC "[1;5D", on_word_left}, /* Ctrl-Left, Alt-Left, Alt-b */
    {ESC "[1;3D", on_word_left},
    {ESC "Od", on_word_left}, /* rxvt */
    {ESC "b", on_word_left},
    {ESC "\x7f", on_kill_word},       /* Alt-Backspace */
    {ESC "d", on_kill_next_word},     /* Alt-d */
    {ESC "[3;5~", on_kill_next_word}, /* Ctrl-Delete */
    {ESC "[3^", on_kill_next_word},   /* rxvt */
    {ESC "[200~", on_paste}           /* bracketed paste begins */
};

/* Does what a key says; nothing if it is none of ours. */
static void key_act(struct edit *e, const char *bytes, size_t len)
{
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strlen(keys[i].bytes) == len && memcmp(keys[i].bytes, bytes, len) == 0) {
            e->cut = false;
            keys[i].act(e);
            e->killing = e->cut;
            return;
        }
}

/* ---- from bytes to keys and text ---- */

/* Adds a byte of text. False: it does not continue the character before it. */
static bool text_byte(struct edit *e, char byte)
{
    bool first = e->part_len == 0;
    uint32_t point;

    e->part[e->part_len++] = byte;
    int char_len = utf8_decode(e->part, e->part_len, &point);
    if (char_len == UTF8_INCOMPLETE)
        return true;
    if (e->part_unwanted)
        e->part_unwanted = false;
    else if (char_len == UTF8_INVALID)
        text_insert(e, "\xef\xbf\xbd", 3); /* U+FFFD, the replacement character */
    else
        text_insert(e, e->part, e->part_len);
    e->part_len = 0;
    return first || char_len != UTF8_INVALID;
}

/* Does an escape sequence go on behind this byte, which follows `len` others? */
static bool key_goes_on(const char *key, size_t len, char byte)
{
    if (len < 2)
        return len == 0 || byte == '[' || byte == 'O';
    if (len == 2 && key[1] == '[' && byte == '[')
        return true;                  /* the Linux console sends ESC[[A for F1 */
    return byte < '@' && byte != '$'; /* rxvt sends ESC[3$ for Shift-Delete */
}

/*
 * Adds a byte of an escape sequence. False: it is no part of one, and counts as typed.
 * A sequence that is too long for a key is followed to its end, too: it is not text.
 */
static bool key_byte(struct edit *e, char byte)
{
    size_t len = e->key_len;
    bool fits = len < EDIT_KEY_MAX, printable = byte >= ' ' && byte <= '~';

    if (len > 0 && !printable && !(len == 1 && byte == DELETE)) {
        bool letter = (unsigned char)byte >= 0x80;

        e->key_len = 0;
        e->part_unwanted = len == 1 && letter; /* Alt-é */
        return false;
    }
    if (fits)
        e->key[e->key_len++] = byte;
    if (key_goes_on(e->key, len, byte))
        return true;
    e->key_len = 0;
    if (fits)
        key_act(e, e->key, len + 1);
    return true;
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
    bool control = (unsigned char)byte < ' ' || byte == DELETE;
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
 * `<` and `>` take a column each.
 */
static size_t view_start(const struct edit *e, int room)
{
    size_t around_cursor = fit_before(e, e->cursor, room / 2 - 1);
    size_t at_line_end = fit_before(e, e->len, room - 1);

    if (fit_before(e, e->len, room) == 0)
        return 0;
    return around_cursor < at_line_end ? around_cursor : at_line_end;
}

/* Where the part ends that fits into `room` columns, with the `>` if the line goes on. */
static size_t view_end(const struct edit *e, size_t start, int room)
{
    while (start < e->len) {
        size_t after = char_after(e, start);

        room -= columns_at(e, start);
        if (room < (after < e->len))
            break;
        start = after;
    }
    return start;
}

static void mark_draw(const char *mark, FILE *out)
{
    fprintf(out, ESC "[7m%s" ESC "[27m", mark);
}

static void char_draw(const struct edit *e, size_t at, FILE *out)
{
    char byte = e->text[at], control[] = {'^', (char)(byte ^ 0x40), '\0'};
    uint32_t point = 0;

    utf8_decode(e->text + at, e->len - at, &point);
    if (utf8_printable(point))
        fwrite(e->text + at, 1, char_after(e, at) - at, out);
    else if (byte == '\n')
        mark_draw("↵", out);
    else if (byte == '\t')
        mark_draw("→", out);
    else
        mark_draw(point < 0x80 ? control : "?", out);
}

static void row_draw(const struct edit *e, size_t start, size_t end, FILE *out)
{
    fprintf(out, "\r%s", e->prompt);
    if (start > 0)
        mark_draw("<", out);
    for (size_t at = start; at < end; at = char_after(e, at))
        char_draw(e, at, out);
}

/*
 * Nothing here depends on where the terminal's cursor was, or on how many columns the
 * terminal gives a letter, and the row never becomes two (ESC[?7l): the cursor gets to
 * its place as the row is written a second time, up to there. So whatever the window
 * does, no row but our own is written to. The last column stays free: terminals differ
 * in where the cursor is behind it.
 */
void edit_draw(struct edit *e, FILE *out)
{
    int room = e->columns - e->prompt_columns - 1;
    size_t start = view_start(e, room);
    size_t end = view_end(e, start, room - (start > 0));

    if (e->bell)
        fputc('\a', out);
    e->bell = false;
    fputs(ESC "[?7l", out);
    row_draw(e, start, end, out);
    if (end < e->len)
        mark_draw(">", out);
    fputs(ESC "[J", out);
    row_draw(e, start, e->cursor, out);
    fputs(ESC "[?7h", out);
}

void edit_hide(FILE *out)
{
    fputs("\r" ESC "[J", out);
}

void edit_leave(struct edit *e, FILE *out)
{
    edit_draw(e, out);
    fputs("\r\n" ESC "[J", out);
}
