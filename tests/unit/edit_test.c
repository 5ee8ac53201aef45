/*
 * edit_test.c - final/edit.c in front of a small terminal: what keys make of the row
 *
 * The terminal has one row of cells and a cursor, and knows the few escape sequences that
 * the editor may use; anything else is a fault, and so is a character in the last column.
 * The tests compare what a user sees: in SHOWS("> hel|lo") the cursor is on the second l,
 * and [x] is a reversed x.
 */
#include "../../final/edit.h"
#include "check.h"

#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH_MAX = 200, CELL_MAX = 4096 };

struct cell {
    /* A character with its marks; empty: the right half of a wide one. */
    char text[CELL_MAX];
    bool reversed;
};

static struct {
    struct cell cells[WIDTH_MAX];
    int width, cursor, bells;
    bool reversed, faulty;
} screen;

static struct edit editor;

/* ---- the terminal ---- */

static void cell_clear(int column)
{
    strcpy(screen.cells[column].text, " ");
    screen.cells[column].reversed = false;
}

static void screen_reset(int width)
{
    memset(&screen, 0, sizeof screen);
    screen.width = width;
    for (int i = 0; i < WIDTH_MAX; i++)
        cell_clear(i);
}

/* The terminal's own idea of columns, independent of wcwidth(): as far as tests go. */
static int columns_of(uint32_t point)
{
    if ((point >= 0x300 && point < 0x370) || point == 0x200d || point == 0xfe0f)
        return 0;
    return (point >= 0x2e80 && point < 0xa000) || point >= 0x1f300 ? 2 : 1;
}

static void screen_put(const char *bytes, size_t len, uint32_t point)
{
    int columns = columns_of(point);
    int column = columns == 0 ? screen.cursor - 1 : screen.cursor;

    while (columns == 0 && column > 0 && screen.cells[column].text[0] == '\0')
        column--;
    char *text = screen.cells[column].text;
    size_t used = columns == 0 ? strlen(text) : 0;
    if (column + columns >= screen.width || used + len >= CELL_MAX) {
        screen.faulty = true;
        return;
    }
    memcpy(text + used, bytes, len);
    text[used + len] = '\0';
    if (columns > 0)
        screen.cells[column].reversed = screen.reversed;
    if (columns == 2)
        screen.cells[column + 1] = (struct cell){"", false};
    screen.cursor += columns;
}

/* Obeys an escape sequence; returns how many bytes follow the ESC, 0 if it is unknown. */
static size_t screen_escape(const char *bytes)
{
    static const char *const known[] = {"[J", "[7m", "[27m", "[?7l", "[?7h"};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t len = strlen(known[i]);

        if (strncmp(bytes, known[i], len) != 0)
            continue;
        for (int column = screen.cursor; i == 0 && column < screen.width; column++)
            cell_clear(column);
        if (i == 1 || i == 2)
            screen.reversed = i == 1;
        return len;
    }
    return 0;
}

static void screen_write(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint32_t point = 0;
        int char_len = utf8_decode(bytes + i, len - i, &point);
        size_t escape = bytes[i] == '\x1b' ? screen_escape(bytes + i + 1) : 0;

        if (bytes[i] == '\r')
            screen.cursor = 0;
        else if (bytes[i] == '\a')
            screen.bells++;
        else if (char_len > 0 && utf8_printable(point))
            screen_put(bytes + i, (size_t)char_len, point);
        else if (escape == 0)
            screen.faulty = true;
        i += char_len > 0 ? (size_t)char_len + escape : 1;
    }
}

static void screen_update(void)
{
    char *bytes = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&bytes, &len);

    if (out == NULL)
        abort();
    edit_draw(&editor, out);
    fclose(out); /* adds a NUL, which strncmp needs */
    screen_write(bytes, len);
    free(bytes);
}

/* The row as text, without the blanks at its end. */
static const char *screen_row(void)
{
    static char row[WIDTH_MAX * (CELL_MAX + 3)];
    char *to = row;
    int end = screen.width;

    while (end > screen.cursor && strcmp(screen.cells[end - 1].text, " ") == 0)
        end--;
    for (int i = 0; i < end || i == screen.cursor; i++) {
        const struct cell *cell = &screen.cells[i];

        to += sprintf(to, "%s", i == screen.cursor ? "|" : "");
        if (i < end)
            to += sprintf(to, cell->reversed ? "[%s]" : "%s", cell->text);
    }
    return row;
}

/* ---- the user ---- */

static void start(int width)
{
    edit_close(&editor);
    edit_open(&editor, "> ", width);
    screen_reset(width);
}

static enum edit_event type_bytes(const char *bytes, size_t len)
{
    enum edit_event event = EDIT_NONE;

    while (len > 0) {
        size_t used;

        event = edit_feed(&editor, bytes, len, &used);
        bytes += used;
        len -= used;
    }
    return event;
}

/* Types a literal, NUL bytes included. Its value is the last event. */
#define TYPE(keys) type_bytes(keys, sizeof(keys) - 1)

static void enter(const char *line)
{
    type_bytes(line, strlen(line));
    CHECK(TYPE("\r") == EDIT_LINE);
    edit_next(&editor);
}

static void shows(const char *want, int line)
{
    screen_update();
    const char *row = screen_row();
    bool right = strcmp(row, want) == 0 && !screen.faulty;
    if (!right)
        fprintf(stderr, "want %s\nhave %s%s\n", want, row,
                screen.faulty ? " (faulty)" : "");
    check_true((struct check){__FILE__, line, "SHOWS"}, right);
}

#define SHOWS(want) shows(want, __LINE__)

static bool text_is(const char *want)
{
    return editor.len == strlen(want) && memcmp(editor.text, want, editor.len) == 0;
}

#define LEFT "\x1b[D"
#define RIGHT "\x1b[C"
#define UP "\x1b[A"
#define DOWN "\x1b[B"
#define HOME "\x1b[H"
#define END "\x1b[F"
#define DELETE "\x1b[3~"
#define BACKSPACE "\x7f"
#define PASTE "\x1b[200~"
#define PASTED "\x1b[201~"
#define ALT "\x1b"
#define ACUTE "\xcc\x81"

/* ---- the tests ---- */

static void test_typing(void)
{
    start(40);
    SHOWS("> |");
    TYPE("hello");
    SHOWS("> hello|");
    TYPE(LEFT LEFT);
    SHOWS("> hel|lo");
    TYPE("p ");
    SHOWS("> help |lo");
    TYPE(HOME "say ");
    SHOWS("> say |help lo");
    TYPE(END "!" LEFT RIGHT RIGHT "?");
    SHOWS("> say help lo!?|");
    CHECK(TYPE("\r") == EDIT_LINE);
    CHECK(text_is("say help lo!?"));
    edit_next(&editor);
    SHOWS("> |");
}

/* All keys for the same thing do the same. */
static void test_synonyms(void)
{
    static const char *const home[] = {"\x01", "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~"};
    static const char *const end[] = {"\x05", "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~"};

    for (size_t i = 0; i < 5; i++) {
        start(40);
        TYPE("abc");
        type_bytes(home[i], strlen(home[i]));
        SHOWS("> |abc");
        TYPE("\x06\x1bOC");
        SHOWS("> ab|c");
        TYPE("\x02\x1bOD");
        SHOWS("> |abc");
        type_bytes(end[i], strlen(end[i]));
        SHOWS("> abc|");
        TYPE("\x08" BACKSPACE);
        SHOWS("> a|");
    }
}

static void test_deleting(void)
{
    start(40);
    TYPE("one two  three" LEFT LEFT DELETE "\x04");
    SHOWS("> one two  thr|");
    TYPE("\x17");
    SHOWS("> one two  |");
    TYPE("\x17");
    SHOWS("> one |");
    TYPE("\x19 \x19");
    SHOWS("> one two  thr two  thr|");
    TYPE(ALT BACKSPACE ALT BACKSPACE ALT BACKSPACE "\x02\x0b");
    SHOWS("> one two |");
    TYPE("\x01\x06\x15");
    SHOWS("> |ne two");
    TYPE("\x19\x19");
    SHOWS("> oo|ne two");
    TYPE("\x05" DELETE HOME BACKSPACE "\x15");
    SHOWS("> |oone two");
    TYPE("\x0b");
    SHOWS("> |");
    TYPE(BACKSPACE DELETE LEFT RIGHT "\x17\x15\x0b");
    SHOWS("> |");
}

/* What successive keys cut comes back in one piece. */
static void test_cutting(void)
{
    start(40);
    TYPE("one two three" LEFT LEFT LEFT LEFT LEFT LEFT);
    TYPE("\x17" ALT "d\x0b" HOME);
    SHOWS("> |one");
    TYPE("\x19");
    SHOWS("> two three|one");
    TYPE("\x0b" BACKSPACE "\x0b\x15" END "\x0b"); /* no cut, no change */
    SHOWS("> |");
    TYPE("\x0b\x19");
    SHOWS("> two thre|");
    TYPE("\x15"
         "a b c" HOME ALT "d" RIGHT "\x1b[3;5~\x19\x19");
    SHOWS(">  bb| c");
    TYPE("\x15\x0b"
         "a b"
         "\x17\x17"
         "x\x17"
         "\x19");
    SHOWS("> x|");
    TYPE("\x15\x15"
         "y\x1b[3^" LEFT "\x1b[3^\x19");
    SHOWS("> y|");
}

static void test_words(void)
{
    start(60);
    TYPE("раз два  three" ALT "b\x1b[1;5D");
    SHOWS("> раз |два  three");
    TYPE("\x1b[1;3D\x1b[1;3D" ALT "f");
    SHOWS("> раз| два  three");
    TYPE("\x1b[1;5C\x1b[1;3C" ALT "f");
    SHOWS("> раз два  three|");
}

static void test_events(void)
{
    start(40);
    CHECK(TYPE("\x04") == EDIT_END);
    CHECK(TYPE("\x0c") == EDIT_REDRAW);
    CHECK(TYPE("\n") == EDIT_LINE);
    CHECK(TYPE("ab" LEFT "\x04") == EDIT_NONE);
    SHOWS("> a|");
    /* After an event, the bytes that follow are left to the caller. */
    size_t used;
    CHECK(edit_feed(&editor, "b\rc", 3, &used) == EDIT_LINE && used == 2);
    CHECK(text_is("ab"));
}

static void test_cyrillic(void)
{
    start(40);
    TYPE("привет");
    SHOWS("> привет|");
    TYPE(LEFT LEFT LEFT BACKSPACE);
    SHOWS("> пр|вет");
    TYPE("и" RIGHT DELETE);
    SHOWS("> прив|т");
    TYPE("\xd0");
    SHOWS("> прив|т"); /* half a letter is not there yet */
    TYPE("\xb5");
    SHOWS("> приве|т");
    CHECK(text_is("привет"));
}

static void test_wide(void)
{
    start(40);
    TYPE("a中文😀b");
    SHOWS("> a中文😀b|");
    TYPE(LEFT LEFT);
    SHOWS("> a中文|😀b");
    CHECK(screen.cursor == 7);
    TYPE(BACKSPACE "国" DELETE);
    SHOWS("> a中国|b");
    CHECK(screen.cursor == 7);
}

static void test_combining(void)
{
    start(40);
    TYPE("ae\xcc\x81\xcc\xa3o\xcc\x88");
    SHOWS("> ae\xcc\x81\xcc\xa3o\xcc\x88|");
    CHECK(screen.cursor == 5);
    TYPE(LEFT);
    CHECK(editor.cursor == 6);
    TYPE(BACKSPACE);
    SHOWS("> a|o\xcc\x88");
    TYPE(DELETE);
    SHOWS("> a|");
    TYPE(ACUTE "b" LEFT);
    SHOWS("> a\xcc\x81|b");
    TYPE(BACKSPACE BACKSPACE "\xcc\x81"); /* a mark with nothing before it */
    TYPE(RIGHT);
    CHECK(text_is(ACUTE "b"));
    TYPE(BACKSPACE);
    CHECK(editor.len == 0 || text_is("\xcc\x81"));
    TYPE(HOME "x");
    screen_update();
    CHECK(!screen.faulty);
}

static void test_history(void)
{
    start(40);
    TYPE(UP DOWN);
    SHOWS("> |");
    enter("first");
    enter("second");
    enter("second");
    enter("");
    TYPE("unsent" LEFT UP);
    SHOWS("> second|");
    TYPE("\x10");
    SHOWS("> first|");
    TYPE(UP "!" DOWN);
    SHOWS("> second|");
    TYPE("\x0e" DOWN DOWN);
    SHOWS("> unsent|");
    TYPE(UP UP);
    SHOWS("> first!|"); /* it stays as it was left, */
    enter("");
    SHOWS("> |");
    TYPE(UP UP UP);
    SHOWS("> first|"); /* until a line is sent */
    TYPE(DOWN);
    SHOWS("> second|");
    TYPE(UP UP UP UP DOWN DOWN DOWN DOWN);
    SHOWS("> |");
}

static void test_history_is_bounded(void)
{
    char line[32];

    start(40);
    for (int i = 0; i < 3 * EDIT_HISTORY / 2; i++) {
        sprintf(line, "line %d", i);
        enter(line);
    }
    for (int i = 0; i < 2 * EDIT_HISTORY; i++)
        TYPE(UP);
    SHOWS("> line 50|");
    for (int i = 0; i < 2 * EDIT_HISTORY; i++)
        TYPE(DOWN);
    SHOWS("> |");
    TYPE(UP);
    SHOWS("> line 149|");
}

static void test_paste(void)
{
    start(40);
    CHECK(TYPE(PASTE "one\rtwo\r\nthree\nfour" PASTED) == EDIT_NONE);
    SHOWS("> one[↵]two[↵]three[↵]four|");
    CHECK(text_is("one\ntwo\nthree\nfour"));
    TYPE(HOME RIGHT RIGHT RIGHT DELETE);
    SHOWS("> one|two[↵]three[↵]four");
    CHECK(TYPE("\r") == EDIT_LINE);
    edit_next(&editor);
    TYPE(UP);
    SHOWS("> onetwo[↵]three[↵]four|");
    TYPE("\x15" PASTE "\ta\x1b[A\x03\x1b[201\x1b" PASTED "z");
    SHOWS("> [→]a[^][[][A[^][C][^][[][201[^][[]z|"); /* keys mean nothing in a paste */
    CHECK(text_is("\ta\x1b[A\x03\x1b[201\x1bz"));
    TYPE("\x15" PASTED "c");
    SHOWS("> c|");
    TYPE("\x15" PASTE "\xd0\xb9\xff\xd0" PASTED "\r");
    CHECK(text_is("й\xef\xbf\xbd\xef\xbf\xbd")); /* cut in the middle of a letter */
}

static void test_scrolling(void)
{
    start(13); /* ten columns for the line, one for the cursor after it */
    TYPE("0123456789");
    SHOWS("> 0123456789|");
    TYPE("A");
    SHOWS("> [<]23456789A|");
    TYPE("BCDEFGHIJ");
    SHOWS("> [<]BCDEFGHIJ|");
    TYPE(LEFT LEFT LEFT LEFT LEFT);
    SHOWS("> [<]BCDE|FGHIJ");
    TYPE(LEFT);
    SHOWS("> [<]ABCD|EFGH[>]");
    TYPE("x");
    SHOWS("> [<]BCDx|EFGH[>]");
    TYPE(BACKSPACE BACKSPACE BACKSPACE);
    SHOWS("> [<]89AB|EFGH[>]");
    TYPE(HOME);
    SHOWS("> |012345678[>]");
    TYPE(END "\x0b" BACKSPACE BACKSPACE BACKSPACE BACKSPACE BACKSPACE);
    SHOWS("> [<]456789ABE|");
    TYPE("\x15z");
    SHOWS("> z|");
}

/* A wide character that fits only in part is not shown at all. */
static void test_scrolling_wide(void)
{
    start(13);
    TYPE("一二三四五");
    SHOWS("> 一二三四五|");
    TYPE("六");
    SHOWS("> [<]三四五六|");
    TYPE("a");
    SHOWS("> [<]三四五六a|");
    TYPE(HOME);
    SHOWS("> |一二三四[>]");
    TYPE("b");
    SHOWS("> b|一二三四[>]");
    TYPE(RIGHT RIGHT RIGHT);
    SHOWS("> [<]二三|四五[>]");
}

static void test_resizing(void)
{
    start(40);
    TYPE("0123456789ABCDEF");
    SHOWS("> 0123456789ABCDEF|");
    edit_resize(&editor, 13);
    screen_reset(13);
    SHOWS("> [<]789ABCDEF|");
    edit_resize(&editor, 1);
    screen_reset(8);
    SHOWS("> [<]CDEF|");
    TYPE("\x01");
    SHOWS("> |0123[>]");
    edit_resize(&editor, 0);
    screen_reset(80);
    SHOWS("> |0123456789ABCDEF");
}

static void test_garbage(void)
{
    start(60);
    TYPE("i\xffj\xc0\xafk\xed\xa0\x80l\xd0\xd0\xb9\xf0\x9f\x98\r");
    SHOWS("> i�j��k���l�й�|");
    TYPE(LEFT BACKSPACE BACKSPACE BACKSPACE);
    SHOWS("> i�j��k���|�");
}

/* An unknown key types nothing, whatever the terminal sends for it. */
static void test_unknown_keys(void)
{
    start(60);
    TYPE("a\x1b[15~\x1b[99;99;99R\x1bOP\x1b[[A\x1b[<0;1;1M\x1b[?1;2cb");
    SHOWS("> ab|");
    TYPE(ALT "x" ALT "\xd0\xb9" ALT "1" ALT "\xff" ALT "\xd0z");
    SHOWS("> abz|");
    TYPE("\x1b[3$\x1b[3@\x1b[1;2A\x1bO5P\x1b[200;1~\x1b[12345678901234567890;1x!");
    SHOWS("> abz!|");
    TYPE("\x1b\x1b[D?");
    SHOWS("> abz?|!");
    CHECK(TYPE("\x1b[\r") == EDIT_LINE); /* a control character is not part of a key */
    CHECK(TYPE("\x1b[1;\r") == EDIT_LINE);
    TYPE("\x15\x0b\x01\x07\x0f\x1c\x1d\x1e\x1f\t\0z");
    SHOWS("> z|");
    TYPE("\xc2\x9b\xe2\x80\xae.");
    SHOWS("> z[?][?].|");
}

/* What the user sees as one character is one to every key, and to the cursor. */
static void test_emoji(void)
{
    static const char *const one[] = {
        "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb", /* a woman joined to a laptop */
        "\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd",             /* a thumb with its skin colour */
        "\xe2\x9d\xa4\xef\xb8\x8f",                     /* a heart, as an emoji */
        "\xf0\x9f\x87\xaa\xf0\x9f\x87\xba",             /* a flag */
        "1\xef\xb8\x8f\xe2\x83\xa3",                    /* a keycap */
    };

    for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) {
        start(40);
        TYPE("a");
        type_bytes(one[i], strlen(one[i]));
        type_bytes(one[i], strlen(one[i]));
        size_t end = editor.cursor;
        TYPE(LEFT);
        CHECK(editor.cursor == end - strlen(one[i]));
        TYPE(LEFT);
        CHECK(editor.cursor == 1);
        TYPE(RIGHT BACKSPACE RIGHT BACKSPACE);
        CHECK(text_is("a"));
    }
    TYPE("\xf0\x9f\x87\xaa\xf0\x9f\x87\xba\xf0\x9f\x87\xaa" BACKSPACE);
    CHECK(text_is("a\xf0\x9f\x87\xaa\xf0\x9f\x87\xba")); /* a flag and a half */
}

static void test_limit(void)
{
    static char line[EDIT_MAX + 10];

    start(13);
    memset(line, 'a', sizeof line);
    type_bytes(line, EDIT_MAX - 1);
    screen_update();
    CHECK(editor.len == EDIT_MAX - 1 && screen.bells == 0);
    TYPE("й");
    screen_update();
    CHECK(editor.len == EDIT_MAX - 1 && screen.bells == 1);
    TYPE("bc");
    SHOWS("> [<]aaaaaaaab|");
    screen_update();
    CHECK(editor.len == EDIT_MAX && screen.bells == 2);
    enter("");
    TYPE(UP UP DOWN UP);
    SHOWS("> [<]aaaaaaaab|");
    TYPE(BACKSPACE PASTE "йc" PASTED); /* no hole where the й did not fit */
    CHECK(editor.len == EDIT_MAX - 1);
    TYPE(PASTE "d" PASTED);
    SHOWS("> [<]aaaaaaaad|");
}

/* ---- random keys ---- */

static bool text_valid(void)
{
    for (size_t i = 0; i < editor.len;) {
        uint32_t point;
        int char_len = utf8_decode(editor.text + i, editor.len - i, &point);

        if (char_len <= 0)
            return false;
        i += (size_t)char_len;
    }
    return true;
}

static bool cursor_valid(void)
{
    return editor.cursor <= editor.len &&
           (editor.cursor == editor.len || (editor.text[editor.cursor] & 0xc0) != 0x80);
}

static size_t random_key(char *to)
{
    static const char *const keys[] = {
        LEFT,       RIGHT,     UP,          DOWN,       HOME,   END,
        DELETE,     BACKSPACE, PASTE,       PASTED,     ALT,    "\x1b[1;5D",
        "\x17",     "\x19",    "\x0b",      "\x15",     "\r",   "й",
        "中",       "😀",       "e\xcc\x81", "\xcc\x81", "\x1b", "\xd0",
        "\xe4\xb8", "word ",   "a",         "\x1b[20",  "\n",   "\t"};
    size_t which = (size_t)rand() % (sizeof keys / sizeof keys[0] + 4);

    if (which >= sizeof keys / sizeof keys[0]) {
        *to = (char)(rand() % 0xc4); /* columns_of() knows no more */
        return 1;
    }
    strcpy(to, keys[which]);
    return strlen(to);
}

/* Whatever is typed, the text stays valid and the row intact. */
static void test_random_keys(void)
{
    int wrong = 0;

    start(20);
    srand(1);
    for (int i = 0; i < 200000; i++) {
        char key[8];

        if (type_bytes(key, random_key(key)) == EDIT_LINE)
            edit_next(&editor);
        if (rand() % 3000 == 0)
            edit_resize(&editor, screen.width = 8 + rand() % 40);
        screen_update();
        wrong += !text_valid() || !cursor_valid() || screen.faulty;
        if (editor.len > 300)
            TYPE("\x15\x0b");
    }
    CHECK(wrong == 0);
}

int main(void)
{
    if (!setlocale(LC_CTYPE, "C.UTF-8") && !setlocale(LC_CTYPE, "en_US.UTF-8")) {
        fprintf(stderr, "edit_test: neither of the locales C.UTF-8 and en_US.UTF-8\n");
        return 1;
    }
    test_typing();
    test_synonyms();
    test_deleting();
    test_cutting();
    test_words();
    test_events();
    test_cyrillic();
    test_wide();
    test_combining();
    test_history();
    test_history_is_bounded();
    test_paste();
    test_scrolling();
    test_scrolling_wide();
    test_resizing();
    test_garbage();
    test_unknown_keys();
    test_emoji();
    test_limit();
    test_random_keys();
    edit_close(&editor);
    return checks_end();
}
