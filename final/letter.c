/*
 * letter - see letter.h. Systems: Linux, macOS and the BSDs.
 */
#define _XOPEN_SOURCE 700 /* wcwidth(3) */

#include "letter.h"

#include <stdbool.h>
#include <stdint.h>
#include <wchar.h>

#include "utf8.h"

enum { JOINER = 0x200d, REPLACEMENT = 0xfffd };

/* The code point that begins at `at`, and in *end where it ends. */
static uint32_t point_at(const char *text, size_t len, size_t at, size_t *end)
{
    uint32_t point;
    int point_len = utf8_decode(text + at, len - at, &point);

    *end = at + (point_len > 0 ? (size_t)point_len : 1);
    return point_len > 0 ? point : REPLACEMENT;
}

/* The code point that ends at `at`, and in *start where it begins. */
static uint32_t point_before(const char *text, size_t at, size_t *start)
{
    size_t end;

    for (size_t back = UTF8_MAX; back > 1; back--)
        if (back <= at) {
            uint32_t point = point_at(text, at, at - back, &end);

            if (end == at) {
                *start = at - back;
                return point;
            }
        }
    *start = at - 1;
    return point_at(text, at, at - 1, &end);
}

/* What wcwidth(3) has never heard of takes one column. */
static int point_columns(uint32_t point)
{
    bool control = point < 0x20 || point == 0x7f;
    int columns = utf8_printable(point) ? wcwidth((wchar_t)point) : 1 + control;

    return columns < 0 ? 1 : columns;
}

/* Two of these make a flag. */
static bool is_flag_half(uint32_t point)
{
    return point >= 0x1f1e6 && point <= 0x1f1ff;
}

static bool is_skin_tone(uint32_t point)
{
    return point >= 0x1f3fb && point <= 0x1f3ff;
}

/* Do an odd number of halves end at `at`? */
static bool flag_begun(const char *text, size_t at)
{
    bool odd = false;

    while (at > 0 && is_flag_half(point_before(text, at, &at)))
        odd = !odd;
    return odd;
}

/* Does the code point at `at` belong to the letter before it? */
static bool belongs(const char *text, size_t len, size_t at)
{
    size_t end, start;
    uint32_t point = point_at(text, len, at, &end);
    uint32_t before = point_before(text, at, &start);

    if (!utf8_printable(before) || !utf8_printable(point))
        return false;
    if (is_flag_half(point))
        return before == JOINER || flag_begun(text, at);
    return before == JOINER || is_skin_tone(point) || point_columns(point) == 0;
}

size_t letter_after(const char *text, size_t len, size_t at)
{
    do {
        (void)point_at(text, len, at, &at);
    } while (at < len && belongs(text, len, at));
    return at;
}

size_t letter_before(const char *text, size_t len, size_t at)
{
    do {
        (void)point_before(text, at, &at);
    } while (at > 0 && belongs(text, len, at));
    return at;
}

int letter_columns(const char *text, size_t len, size_t at)
{
    size_t end = letter_after(text, len, at);
    int columns = 0;

    while (at < end)
        columns += point_columns(point_at(text, len, at, &at));
    return columns;
}

size_t letter_fit(const char *text, size_t len, size_t max)
{
    size_t points = 0, end = 0, next;

    if (len <= max)
        return len;
    while (points < max && (point_at(text, len, points, &next), next <= max)) {
        points = next;
        if (!belongs(text, len, points))
            end = points;
    }
    return end > 0 ? end : points > 0 ? points : max;
}
