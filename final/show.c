/*
 * show - see show.h. Systems: Linux, macOS and the BSDs.
 */
#include "show.h"

#include <stdint.h>
#include <string.h>

#include "letter.h"
#include "utf8.h"

enum { LINE_MAX_SHOWN = 1024 + 64 }; /* the longest message, and an address before it */

/* How many bytes of a line are the sender's address and the ": " behind it. */
static size_t sender_len(const char *line, size_t len)
{
    static const char letters[] = "0123456789abcdefABCDEF.:";
    size_t i = 0;

    while (i < len && memchr(letters, line[i], sizeof letters - 1) != NULL)
        i++;
    return i > 1 && i < len && line[i - 1] == ':' && line[i] == ' ' ? i + 1 : 0;
}

/* Of the palette of 256: those with a contrast of 4 or more to black and to white. */
static int sender_colour(const char *sender, size_t len)
{
    static const unsigned char colours[] = {27, 28,  30,  31,  62,  64,  97,
                                            99, 129, 130, 131, 133, 161, 163};
    uint32_t hash = 2166136261; /* FNV-1a */

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)sender[i]) * 16777619;
    return colours[hash % sizeof colours];
}

/* A tab does no harm, and people paste programs. */
static void text_show(const char *text, size_t len, FILE *out)
{
    char visible[UTF8_VISIBLE_MAX * LINE_MAX_SHOWN];

    while (len > 0) {
        const char *tab = memchr(text, '\t', len);
        size_t plain = tab == NULL ? len : (size_t)(tab - text);
        size_t taken = tab == NULL ? len : plain + 1;

        size_t shown = utf8_visible(visible, text, plain);
        fwrite(visible, 1, shown, out);
        fwrite(text + plain, 1, taken - plain, out);
        text += taken;
        len -= taken;
    }
}

/* At most LINE_MAX_SHOWN bytes. */
static void line_show(const char *line, size_t len, bool colour, FILE *out)
{
    size_t sender = colour ? sender_len(line, len) : 0;

    if (sender > 0)
        fprintf(out, "\x1b[38;5;%dm%.*s\x1b[m", sender_colour(line, sender), (int)sender,
                line);
    text_show(line + sender, len - sender, out);
    fputc('\n', out);
}

size_t show_lines(const char *bytes, size_t len, bool all, bool colour, const char *stamp,
                  FILE *out)
{
    size_t used = 0;

    while (used < len) {
        const char *line = bytes + used, *newline = memchr(line, '\n', len - used);
        size_t line_len = newline == NULL ? len - used : (size_t)(newline - line);

        if (line_len > LINE_MAX_SHOWN) {
            newline = NULL;
            line_len = letter_fit(line, line_len, LINE_MAX_SHOWN);
        } else if (newline == NULL && !all) {
            break;
        }
        /* Some clients end their lines with CR LF. */
        bool crlf = newline != NULL && line_len > 0 && line[line_len - 1] == '\r';
        fputs(stamp, out);
        line_show(line, line_len - crlf, colour, out);
        used += line_len + (newline != NULL);
    }
    return used;
}
