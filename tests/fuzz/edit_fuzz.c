/*
 * edit_fuzz - final/edit.c, letter.c, utf8.c and show.c with any bytes
 *
 * A libFuzzer target. The first byte of the input is the width of the screen, the second
 * says how many keys are typed between two drawings. See fuzz.py. What must hold:
 *
 *   - it makes no difference how the typed bytes are cut into pieces;
 *   - the line stays valid UTF-8, and the cursor between two of its characters;
 *   - whatever is written for a terminal is printable, apart from the few escape
 *     sequences that edit.h and show.h speak of, and no row is wider than the screen;
 *   - nothing that others have said is ever erased from the screen or overwritten,
 *     whatever happens to the window, on a terminal that breaks long rows and on one that
 *     cuts them.
 */
#define _XOPEN_SOURCE 700 /* wcwidth(3) */

#include "../../final/edit.h"
#include "../../final/show.h"
#include "../../final/utf8.h"
#include "../unit/check.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

/* ---- what is written for a terminal ---- */

struct output {
    FILE *file;
    char *bytes;
    size_t len;
};

static void output_open(struct output *out)
{
    CHECK((out->file = open_memstream(&out->bytes, &out->len)) != NULL);
}

/* Takes an escape sequence off the front. No others are allowed. */
static size_t escape_length(const char *bytes, size_t len)
{
    size_t end = 2;

    CHECK(len >= 3 && bytes[1] == '[');
    while (end < len && bytes[end] != '\0' && strchr("0123456789;?", bytes[end]) != NULL)
        end++;
    CHECK(end < len && bytes[end] != '\0' && strchr("Jhlm", bytes[end]) != NULL);
    return end + 1;
}

/* Everything but `controls` must be printable. Returns the columns of the widest row. */
static int output_check(struct output *out, const char *controls)
{
    int columns = 0, widest = 0;

    fclose(out->file);
    for (size_t at = 0; at < out->len;) {
        uint32_t point = 0;
        int char_len = utf8_decode(out->bytes + at, out->len - at, &point);
        CHECK(char_len > 0);
        if (point == 0x1b) {
            at += escape_length(out->bytes + at, out->len - at);
            continue;
        }
        at += (size_t)char_len;
        if (point == '\r' || point == '\n')
            columns = 0;
        else if (utf8_printable(point) && wcwidth((wchar_t)point) > 0)
            columns += wcwidth((wchar_t)point);
        CHECK(utf8_printable(point) ||
              (point < 0x20 && point > 0 && strchr(controls, (int)point) != NULL));
        widest = columns > widest ? columns : widest;
    }
    free(out->bytes);
    return widest;
}

/* ---- a window whose size changes ---- */

enum { ROWS = 24, COLUMNS_MAX = 260 };

/* What is in a cell; the letters themselves do not matter. */
enum cell { BLANK, OURS, RECEIVED };

struct row {
    unsigned char cells[COLUMNS_MAX];
    int len;      /* those that have ever been written */
    bool wrapped; /* the next row continues this one */
};

/* Rows that have scrolled off the top are safe, so they are forgotten. */
static struct window {
    struct row rows[ROWS];
    int row, column, width;
    bool reflows, wraps, pending;
} window;

static void window_open(int width, bool reflows)
{
    memset(&window, 0, sizeof window);
    window.width = width;
    window.reflows = reflows;
    window.wraps = true;
}

static void window_next_row(void)
{
    window.pending = false;
    if (++window.row < ROWS)
        return;
    window.row--;
    memmove(window.rows, window.rows + 1, (ROWS - 1) * sizeof window.rows[0]);
    window.rows[window.row] = (struct row){.len = 0};
}

static void window_put(enum cell cell)
{
    if (window.pending && window.wraps) {
        window.rows[window.row].wrapped = true;
        window_next_row();
        window.column = 0;
    }
    struct row *row = &window.rows[window.row];
    CHECK(row->cells[window.column] != RECEIVED);
    row->cells[window.column] = (unsigned char)cell;
    if (row->len <= window.column)
        row->len = window.column + 1;
    window.pending = window.column == window.width - 1;
    window.column += !window.pending;
}

static void window_erase_below(void)
{
    for (int y = window.row; y < ROWS; y++) {
        struct row *row = &window.rows[y];
        int start = y == window.row ? window.column : 0;

        for (int x = start; x < row->len; x++) {
            CHECK(row->cells[x] != RECEIVED);
            row->cells[x] = BLANK;
        }
        row->len = row->len < start ? row->len : start;
        row->wrapped = false;
    }
}

/* Writes the rows anew into a window of another width; the cursor stays where it was. */
static void window_reflow(int width)
{
    static struct window old;
    int rows = window.row + 1, row = 0, column = 0;

    old = window;
    while (rows < ROWS && old.rows[rows - 1].wrapped)
        rows++;
    window_open(width, true);
    for (int y = 0; y < rows; y++) {
        bool here = y == old.row;
        int len = here && old.rows[y].len < old.column ? old.column : old.rows[y].len;

        for (int x = 0; x < len; x++) {
            window_put(old.rows[y].cells[x]);
            if (here && x < old.column) {
                row = window.row;
                column = window.column;
            }
        }
        if (here && old.column == 0) {
            row = window.row;
            column = window.column;
        }
        if (!old.rows[y].wrapped && y + 1 < rows) {
            window_next_row();
            window.column = 0;
        }
    }
    window.row = row;
    window.column = column;
    window.pending = false;
}

/* Where rows are cut, it is the terminal that loses what is beyond the edge. */
static void window_cut(int width)
{
    for (int y = 0; y < ROWS; y++) {
        struct row *row = &window.rows[y];

        while (row->len > width)
            row->cells[--row->len] = BLANK;
    }
    window.width = width;
    window.pending = false;
    if (window.column >= width)
        window.column = width - 1;
}

static void window_resize(int width)
{
    if (window.reflows)
        window_reflow(width);
    else
        window_cut(width);
}

static void window_escape(const char *bytes, size_t len)
{
    if (bytes[len - 1] == 'J')
        window_erase_below();
    if (len == 5 && memcmp(bytes + 1, "[?7", 3) == 0)
        window.wraps = bytes[4] == 'h';
}

static void window_write(struct output *out, enum cell cell)
{
    fclose(out->file);
    for (size_t at = 0; at < out->len;) {
        uint32_t point = 0;
        int char_len = utf8_decode(out->bytes + at, out->len - at, &point);

        if (point == 0x1b) {
            size_t escape = escape_length(out->bytes + at, out->len - at);
            window_escape(out->bytes + at, escape);
            at += escape;
            continue;
        }
        at += (size_t)char_len;
        if (point == '\r') {
            window.column = 0;
            window.pending = false;
        } else if (point == '\n') {
            window_next_row();
            window.column = 0;
        } else if (point >= ' ') {
            for (int columns = wcwidth((wchar_t)point); columns > 0; columns--)
                window_put(cell);
        }
    }
    free(out->bytes);
}

/* The bytes that decide about the window are also what others say. */
static void window_check(bool reflows, const char *bytes, size_t len)
{
    static struct edit e;

    edit_open(&e, "> ", 40);
    window_open(40, reflows);
    for (size_t at = 0; at < len; at++) {
        int change = (unsigned char)bytes[at];
        struct output out;
        size_t used;

        if (edit_feed(&e, bytes + at, 1, &used) == EDIT_LINE)
            edit_next(&e);
        if (change % 8 == 1)
            window_resize(2 + change);
        if (change % 8 == 2) /* sometimes it learns this late, or never */
            edit_resize(&e, window.width);
        if (change % 8 > 3)
            continue;
        output_open(&out);
        edit_hide(out.file);
        window_write(&out, OURS);
        if (change % 8 == 3) {
            output_open(&out);
            show_lines(bytes + at, len - at, true, false, "", out.file);
            window_write(&out, RECEIVED);
        }
        output_open(&out);
        edit_draw(&e, out.file);
        window_write(&out, OURS);
    }
    edit_close(&e);
}

/* ---- the editor ---- */

static void line_check(const struct edit *e)
{
    bool boundary = e->cursor == e->len;

    CHECK(e->cursor <= e->len && e->len <= EDIT_MAX);
    CHECK(e->killed_len <= EDIT_MAX && e->recalled <= e->remembered);
    for (size_t at = 0; at < e->len;) {
        uint32_t point;
        int char_len = utf8_decode(e->text + at, e->len - at, &point);
        CHECK(char_len > 0);
        boundary |= at == e->cursor;
        at += (size_t)char_len;
    }
    CHECK(boundary);
}

static void line_draw(struct edit *e)
{
    struct output out;

    output_open(&out);

    edit_draw(e, out.file);
    CHECK(output_check(&out, "\a\r") < e->columns);
}

/* Types bytes, and sends each line as soon as it is complete. Returns how many events. */
static size_t keys_type(struct edit *e, const char *bytes, size_t len)
{
    size_t events = 0;

    while (len > 0) {
        size_t used;
        enum edit_event event = edit_feed(e, bytes, len, &used);
        CHECK(used <= len && (event != EDIT_NONE || used == len));
        if (event == EDIT_LINE)
            edit_next(e);
        events += event != EDIT_NONE;
        bytes += used;
        len -= used;
    }
    return events;
}

static void lines_same(const struct edit *a, const struct edit *b)
{
    CHECK(a->len == b->len && memcmp(a->text, b->text, a->len) == 0);
    CHECK(a->cursor == b->cursor && a->pasting == b->pasting);
    CHECK(a->key_len == b->key_len && a->part_len == b->part_len);
    CHECK(a->remembered == b->remembered && a->recalled == b->recalled);
    CHECK(a->killed_len == b->killed_len &&
          memcmp(a->killed, b->killed, a->killed_len) == 0);
}

static void edit_check(int columns, size_t step, const char *bytes, size_t len)
{
    static struct edit whole, pieces;
    size_t events = 0;

    edit_open(&whole, "> ", columns);
    edit_open(&pieces, "> ", columns);
    for (size_t at = 0; at < len; at += step) {
        events += keys_type(&pieces, bytes + at, step < len - at ? step : len - at);
        line_check(&pieces);
        line_draw(&pieces);
        if (at % 64 == 0)
            edit_resize(&pieces, columns + (int)(at % 128));
    }
    CHECK(keys_type(&whole, bytes, len) == events);
    lines_same(&whole, &pieces);
    edit_close(&whole);
    edit_close(&pieces);
}

/* ---- what others say ---- */

static void visible_check(const char *bytes, size_t len)
{
    char *visible = malloc(UTF8_VISIBLE_MAX * len + 1);
    struct output out;

    output_open(&out);

    size_t visible_len = utf8_visible(visible, bytes, len);
    CHECK(visible_len <= UTF8_VISIBLE_MAX * len);
    fwrite(visible, 1, visible_len, out.file);
    output_check(&out, "");
    free(visible);
}

/* Only show_lines() itself may use an escape sequence, and only for colour. */
static void show_check(bool colour, const char *bytes, size_t len)
{
    struct output out;

    output_open(&out);
    size_t used = show_lines(bytes, len, false, colour, "", out.file);

    CHECK(used <= len);
    CHECK(used + show_lines(bytes + used, len - used, true, colour, "", out.file) == len);
    fflush(out.file);
    CHECK(colour || memchr(out.bytes, 0x1b, out.len) == NULL);
    output_check(&out, "\t\n");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *locale;

    if (locale == NULL)
        CHECK((locale = setlocale(LC_CTYPE, "C.UTF-8")) != NULL);
    if (size < 2)
        return 0;
    size_t len = size - 2;
    char *bytes = malloc(len > 0 ? len : 1); /* nothing beyond its end may be read */
    memcpy(bytes, data + 2, len);
    edit_check(data[0], 1 + data[1] % 32U, bytes, len);
    window_check(data[0] % 2 == 0, bytes, len);
    visible_check(bytes, len);
    show_check(false, bytes, len);
    show_check(true, bytes, len);
    free(bytes);
    return 0;
}
