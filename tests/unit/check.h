/*
 * check.h - the checks of all tests in C: unit tests, those of the event loop, fuzzing
 *
 *   CHECK(condition)          it has to be true
 *   CHECK_EQUAL(got, want)    two integers have to be equal
 *   CHECK_FAILS(call, error)  a call has to return -1, with that errno
 *   checks_end()              says how many checks there were: for the end of main
 *
 * The first check that fails says where and what, and ends the program by abort(): what
 * comes after it would mean nothing, and a fuzzer keeps the input.
 */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* Where a check stands; the last one that held, for those who wonder what hangs. */
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
    fprintf(stderr, "%s:%d: not so: %s\n", check.file, check.line, check.what);
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
