/*
 * utf8_test.c - final/utf8.c: every code point, every kind of malformed byte, and the
 * visible form of hostile texts and of random bytes
 */
#include "../../final/utf8.h"
#include "check.h"

#include <stdlib.h>
#include <string.h>

/* An encoder of our own, so that the decoder is not checked against itself. */
static size_t encode(uint32_t point, char *out)
{
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t len = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (point & 0x3f));
        point >>= 6;
    }
    out[0] = (char)(marks[len] | point);
    return len;
}

static void check_every_code_point(void)
{
    int wrong = 0, wrong_prefix = 0;
    for (uint32_t point = 0; point <= 0x10ffff; point++) {
        char bytes[UTF8_MAX];
        uint32_t found = 0;
        size_t len = encode(point, bytes);
        bool surrogate = point >= 0xd800 && point <= 0xdfff;
        int want = surrogate ? UTF8_INVALID : (int)len;
        wrong +=
            utf8_decode(bytes, len, &found) != want || (!surrogate && found != point);
        for (size_t cut = 0; cut < len && !surrogate; cut++)
            wrong_prefix += utf8_decode(bytes, cut, &found) != UTF8_INCOMPLETE;
    }
    CHECK(wrong == 0);
    CHECK(wrong_prefix == 0);
}

/* The length of a literal's first character; the literal may hold NUL bytes. */
#define DECODE(text) utf8_decode(text, sizeof(text) - 1, &(uint32_t){0})

static void check_malformed(void)
{
    CHECK(DECODE("") == UTF8_INCOMPLETE);
    CHECK(DECODE("\0") == 1);
    CHECK(DECODE("\x80") == UTF8_INVALID);
    CHECK(DECODE("\xbf") == UTF8_INVALID);
    CHECK(DECODE("\xfe") == UTF8_INVALID);
    CHECK(DECODE("\xff") == UTF8_INVALID);
    CHECK(DECODE("\xc0\x80") == UTF8_INVALID);         /* overlong NUL */
    CHECK(DECODE("\xc1\xbf") == UTF8_INVALID);         /* overlong DEL */
    CHECK(DECODE("\xe0\x9f\xbf") == UTF8_INVALID);     /* overlong U+07FF */
    CHECK(DECODE("\xf0\x8f\xbf\xbf") == UTF8_INVALID); /* overlong U+FFFF */
    CHECK(DECODE("\xed\xa0\x80") == UTF8_INVALID);     /* first surrogate */
    CHECK(DECODE("\xed\xbf\xbf") == UTF8_INVALID);     /* last surrogate */
    CHECK(DECODE("\xf4\x90\x80\x80") == UTF8_INVALID); /* U+110000 */
    CHECK(DECODE("\xf8\x88\x80\x80\x80") == UTF8_INVALID);
    CHECK(DECODE("\xd0z") == UTF8_INVALID); /* cut short by another character */
    CHECK(DECODE("\xe2\x82z") == UTF8_INVALID);
    CHECK(DECODE("\xe2\x82\xc3") == UTF8_INVALID);
    CHECK(DECODE("a\xff") == 1); /* only the first character is looked at */
}

/* A prefix that no further byte can mend is invalid at once. */
static void check_hopeless_prefixes(void)
{
    CHECK(DECODE("\xc0") == UTF8_INVALID);
    CHECK(DECODE("\xc1") == UTF8_INVALID);
    CHECK(DECODE("\xe0\x9f") == UTF8_INVALID);
    CHECK(DECODE("\xed\xa0") == UTF8_INVALID);
    CHECK(DECODE("\xf0\x8f") == UTF8_INVALID);
    CHECK(DECODE("\xf4\x90") == UTF8_INVALID);
    CHECK(DECODE("\xf5") == UTF8_INVALID);
    CHECK(DECODE("\xe0\xa0") == UTF8_INCOMPLETE);
    CHECK(DECODE("\xed\x9f") == UTF8_INCOMPLETE);
    CHECK(DECODE("\xf0\x90") == UTF8_INCOMPLETE);
    CHECK(DECODE("\xf4\x8f") == UTF8_INCOMPLETE);
}

static void check_printable(void)
{
    static const uint32_t hidden[] = {0,      '\n',   0x1b,   0x1f,   0x7f,
                                      0x80,   0x9b,   0x9f,   0x2028, 0x2029,
                                      0x202a, 0x202e, 0x2066, 0x2069, 0xfeff};
    static const uint32_t shown[] = {' ',    '~',    0xa0,    0x301,   0x416,  0x200d,
                                     0x200e, 0x2027, 0x202f,  0x2065,  0x206a, 0x4e2d,
                                     0xfe0f, 0xfffd, 0x1f600, 0x10ffff};
    for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++)
        CHECK(!utf8_printable(hidden[i]));
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++)
        CHECK(utf8_printable(shown[i]));
}

static void check_visible_text(const char *text, size_t len, const char *want, int line)
{
    char *out = malloc(UTF8_VISIBLE_MAX * len + 1); /* exact: ASan sees a byte too many */
    if (out == NULL)
        abort();
    size_t written = utf8_visible(out, text, len);
    out[written] = '\0';
    check_true((struct check){__FILE__, line, out}, strcmp(out, want) == 0);
    free(out);
}

#define VISIBLE(text, want) check_visible_text(text, sizeof(text) - 1, want, __LINE__)

static void check_visible(void)
{
    VISIBLE("", "");
    VISIBLE("plain \\ text", "plain \\ text");
    VISIBLE("привет, 中文 😀 e\xcc\x81", "привет, 中文 😀 e\xcc\x81");
    VISIBLE("a\0b", "a\\x00b");
    VISIBLE("\x1b]0;title\a", "\\x1b]0;title\\x07");
    VISIBLE("tab\there\r\n", "tab\\x09here\\x0d\\x0a");
    VISIBLE("\xc2\x9bK", "\\xc2\\x9bK");              /* CSI as one C1 character */
    VISIBLE("\xe2\x80\xaegpj", "\\xe2\\x80\\xaegpj"); /* right-to-left override */
    VISIBLE("\xd0", "\\xd0");                         /* cut at the end */
    VISIBLE("\xd0Z\xff\xfeЖ", "\\xd0Z\\xff\\xfeЖ");
    VISIBLE("\xed\xa0\x80", "\\xed\\xa0\\x80");
    VISIBLE("\xf0\x9f\x98", "\\xf0\\x9f\\x98");
}

/* Whatever comes in, printable text comes out, and showing it again changes nothing. */
static void check_random_bytes(void)
{
    uint32_t seed = 1;
    int wrong = 0;
    for (int round = 0; round < 20000; round++) {
        char text[16], once[64], twice[256];
        for (size_t i = 0; i < sizeof text; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = (char)(seed >> 24);
        }
        size_t len = utf8_visible(once, text, sizeof text);
        wrong += utf8_visible(twice, once, len) != len || memcmp(once, twice, len) != 0;
        wrong += memchr(once, '\n', len) != NULL || memchr(once, 0x1b, len) != NULL;
    }
    CHECK(wrong == 0);
}

/*
 * utf8_visible() looks at eight bytes together. So every byte is tried at every place in
 * texts of every length and alignment, against the plain rule for one byte at a time:
 * one that is shown as it is takes one byte, an escaped one four.
 */
static void check_visible_everywhere(void)
{
    enum { LEN_MAX = 27 };
    char room[LEN_MAX + 8], want[UTF8_VISIBLE_MAX * LEN_MAX],
        out[UTF8_VISIBLE_MAX * LEN_MAX];
    int wrong = 0;
    for (size_t start = 0; start < 8; start++)
        for (size_t len = 1; len <= LEN_MAX; len++)
            for (size_t at = 0; at < len; at++)
                for (int byte = 0; byte < 256; byte++) {
                    bool plain = byte >= ' ' && byte <= '~';
                    char shown[5] = {(char)byte, '\0'};
                    size_t shown_len = plain ? 1 : UTF8_VISIBLE_MAX;
                    if (!plain)
                        snprintf(shown, sizeof shown, "\\x%02x", (unsigned)byte);
                    memset(room, '\x1f', sizeof room); /* what must not be looked at */
                    memset(room + start, ' ' + (int)(len % 95), len);
                    room[start + at] = (char)byte;
                    memset(want, ' ' + (int)(len % 95), sizeof want);
                    memcpy(want + at, shown, shown_len);
                    size_t written = utf8_visible(out, room + start, len);
                    wrong +=
                        written != len - 1 + shown_len || memcmp(out, want, written) != 0;
                }
    CHECK(wrong == 0);
}

static size_t shown_len(int byte)
{
    return byte >= ' ' && byte <= '~' ? 1 : UTF8_VISIBLE_MAX;
}

/* And each ASCII character seven times, with each other one at each place among them. */
static void check_visible_words(void)
{
    int wrong = 0;
    for (int usual = 0; usual < 128; usual++)
        for (int other = 0; other < 128; other++)
            for (size_t at = 0; at < 8; at++) {
                char word[8], out[UTF8_VISIBLE_MAX * sizeof word];
                memset(word, usual, sizeof word);
                word[at] = (char)other;
                wrong += utf8_visible(out, word, sizeof word) !=
                         7 * shown_len(usual) + shown_len(other);
            }
    CHECK(wrong == 0);
}

int main(void)
{
    check_every_code_point();
    check_malformed();
    check_hopeless_prefixes();
    check_printable();
    check_visible();
    check_visible_everywhere();
    check_visible_words();
    check_random_bytes();
    return checks_end();
}
