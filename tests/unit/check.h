/*
 * check.h - the checks of all tests in C: unit tests, event-loop tests, fuzz targets
 *
 *   CHECK(condition)          it has to be true
 *   CHECK_EQUAL(got, want)    two integers have to be equal
 *   CHECK_FAILS(call, error)  a call has to return -1, with that errno
 *   checks_end()              prints how many checks there were: for the end of main
 *
 * The first check that fails prints where and what, and calls abort(): later checks would
 * mean nothing, and a fuzzer keeps the input of a program that aborts.
 */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* A check and its place. If a test hangs, the last one made tells where. */
struct check {
    const char *file;
    int line;
    const char *what;
};

static long checks_made;
static struct check check_last;

#define CHECK_HERE(what) ((struct check){__FILE__, __LINE__, what})
#define CHECK(condition) check_true(CHECK_HERE(#condition), (condition))
#define CHECK_EQUAL(got, want) check_equal(CHECK_HERE(#got), (got), (want))
#define CHECK_FAILS(call, error)                                                         \
    do {                                                                                 \
        long result_ = (call);                                                           \
        int error_ = errno;                                                              \
        check_equal(CHECK_HERE(#call), result_, -1);                                     \
        check_equal(CHECK_HERE("errno of " #call), error_, (error));                     \
    } while (0)

static inline void check_true(struct check check, bool right)
{
    checks_made++;
    check_last = check;
    if (right)
        return;
    fprintf(stderr, "%s:%d: not true: %s\n", check.file, check.line, check.what);
    abort();
}

static inline void check_equal(struct check check, long got, long want)
{
    checks_made++;
    check_last = check;
    if (got == want)
        return;
    fprintf(stderr, "%s:%d: %s is %ld, expected %ld\n", check.file, check.line,
            check.what, got, want);
    abort();
}

/* Returns the program's exit status. */
static inline int checks_end(void)
{
    printf("ok %ld checks\n", checks_made);
    return 0;
}

#endif
