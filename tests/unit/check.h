/*
 * check.h - what the unit tests share: CHECK(condition), and checks_end() for main
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdio.h>

static int checks_made, checks_failed;

#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)

static inline void check(bool right, const char *what, const char *file, int line)
{
    checks_made++;
    if (right)
        return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    checks_failed++;
}

/* Says how many there were. Returns the program's exit status. */
static inline int checks_end(void)
{
    printf("ok %d checks\n", checks_made - checks_failed);
    return checks_failed == 0 ? 0 : 1;
}

#endif
