/*
 * utf8 - see utf8.h. Systems: Linux, macOS and the BSDs.
 * The ranges are those of RFC 3629, section 4.
 */
#include "utf8.h"

#include <string.h>

/* The first byte of a character of 1, 2, 3, 4 bytes, and the least code point of each. */
static const struct {
    unsigned char mask, mark;
    uint32_t least;
} leads[UTF8_MAX] = {
    {0x80, 0x00, 0x0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

static int lead_length(unsigned char lead)
{
    for (int i = 0; i < UTF8_MAX; i++)
        if ((lead & leads[i].mask) == leads[i].mark)
            return i + 1;
    return UTF8_INVALID;
}

/* Can `bits`, read so far, become a code point of `least` or more, `missing` bytes on? */
static bool prefix_valid(uint32_t bits, int missing, uint32_t least)
{
    uint32_t low = bits << (6 * missing);
    uint32_t high = low | ((UINT32_C(1) << (6 * missing)) - 1);
    bool surrogates = low >= 0xd800 && high <= 0xdfff;
    return high >= least && low <= 0x10ffff && !surrogates;
}

/* The value is checked after every byte: nobody waits for the end of a hopeless one. */
int utf8_decode(const char *bytes, size_t len, uint32_t *point)
{
    if (len == 0)
        return UTF8_INCOMPLETE;
    unsigned char lead = (unsigned char)bytes[0];
    int char_len = lead_length(lead);
    if (char_len == UTF8_INVALID)
        return UTF8_INVALID;
    uint32_t least = leads[char_len - 1].least;
    uint32_t bits = lead & (unsigned char)~leads[char_len - 1].mask;
    for (int have = 1; prefix_valid(bits, char_len - have, least); have++) {
        if (have == char_len) {
            *point = bits;
            return char_len;
        }
        if ((size_t)have == len)
            return UTF8_INCOMPLETE;
        unsigned char next = (unsigned char)bytes[have];
        if ((next & 0xc0) != 0x80)
            return UTF8_INVALID;
        bits = bits << 6 | (next & 0x3f);
    }
    return UTF8_INVALID;
}

bool utf8_printable(uint32_t point)
{
    bool control = point < 0x20 || (point >= 0x7f && point < 0xa0);
    bool separator = point == 0x2028 || point == 0x2029;
    bool reorders =
        (point >= 0x202a && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069);
    return !control && !separator && !reorders && point != 0xfeff;
}

static size_t hex_append(char *out, char byte)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char value = (unsigned char)byte;
    out[0] = '\\';
    out[1] = 'x';
    out[2] = digits[value >> 4];
    out[3] = digits[value & 15];
    return UTF8_VISIBLE_MAX;
}

/*
 * Are all eight bytes of the word printable ASCII? In each byte, the high bit of one of
 * these tells: of `word` if it is above 0x7f; of `word + ones` if it is 0x7f; of `low`,
 * where it is lent to the subtraction, if it is NOT below 0x20. A carry out of a byte
 * comes only from one that has been found already.
 */
static bool word_printable(uint64_t word)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = 0x80 * ones;
    uint64_t low = (word | highs) - 0x20 * ones;
    return ((word | (word + ones) | ~low) & highs) == 0;
}

/* How many bytes at the front are printable ASCII: most text is, so be quick about it. */
static size_t ascii_length(const char *bytes, size_t len)
{
    uint64_t word;
    size_t n = 0;
    while (len - n >= sizeof word) {
        memcpy(&word, bytes + n, sizeof word); /* wherever it stands, aligned or not */
        if (!word_printable(word))
            break;
        n += sizeof word;
    }
    while (n < len && bytes[n] >= ' ' && bytes[n] <= '~')
        n++;
    return n;
}

/* How many bytes the first character takes if it may be shown as it is; else 0. */
static size_t printable_length(const char *bytes, size_t len)
{
    uint32_t point;
    int char_len = utf8_decode(bytes, len, &point);
    return char_len > 0 && utf8_printable(point) ? (size_t)char_len : 0;
}

size_t utf8_visible(char *out, const char *bytes, size_t len)
{
    size_t written = 0;
    for (size_t i = 0; i < len;) {
        size_t shown = ascii_length(bytes + i, len - i);
        if (shown == 0)
            shown = printable_length(bytes + i, len - i);
        memcpy(out + written, bytes + i, shown);
        written += shown;
        i += shown;
        if (shown == 0)
            written += hex_append(out + written, bytes[i++]);
    }
    return written;
}
