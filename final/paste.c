/* paste - see paste.h */
#include "paste.h"

#include <string.h>

/* Returns the mark that comes next. */
static const char *mark_next(bool pasting)
{
    return pasting ? "\x1b[201~" : "\x1b[200~";
}

void paste_follow(struct paste *paste, char byte)
{
    const char *mark = mark_next(paste->pasting);

    if (byte != mark[paste->matched])
        paste->matched = byte == mark[0];
    else if (++paste->matched == PASTE_MARK_LEN) {
        paste->matched = 0;
        paste->pasting = !paste->pasting;
    }
}

size_t paste_bridge(struct paste from, struct paste to, char bytes[2 * PASTE_MARK_LEN])
{
    size_t len = from.pasting != to.pasting ? PASTE_MARK_LEN : 0;

    if (len == 0 && from.matched == to.matched)
        return 0; /* nothing is lost, or no mark */
    memcpy(bytes, mark_next(from.pasting), len);
    memcpy(bytes + len, mark_next(to.pasting), to.matched);
    return len + to.matched;
}
