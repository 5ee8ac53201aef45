/*
 * kqueue_test.c - what kqueue.c answers, and that it aborts where a rule is broken
 *
 * Without the stand-in (see sys/event.h) this test asks the system's own kqueue the same
 * questions, and leaves out only the rules; where kernels are known to differ, any of
 * their answers will do. Prints "ok N checks"; the first wrong answer ends the test by
 * abort(), its place on stderr.
 */
#include <sys/types.h>

#include <sys/event.h>

#include "../unit/sockets.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

enum { ROOM = 16 };

static int mark_read, mark_write; /* what udata points to */

static int change(int kq, int fd, int filter, int flags, void *udata)
{
    struct kevent kev;

    EV_SET(&kev, (uintptr_t)fd, (int16_t)filter, (uint16_t)flags, 0, 0, udata);
    return kevent(kq, &kev, 1, NULL, 0, NULL);
}

static int add_read(int kq, int fd)
{
    return change(kq, fd, EVFILT_READ, EV_ADD, &mark_read);
}

static int add_write(int kq, int fd)
{
    return change(kq, fd, EVFILT_WRITE, EV_ADD, &mark_write);
}

static int delete_read(int kq, int fd)
{
    return change(kq, fd, EVFILT_READ, EV_DELETE, NULL);
}

static int delete_write(int kq, int fd)
{
    return change(kq, fd, EVFILT_WRITE, EV_DELETE, NULL);
}

static int wait_ms(int kq, struct kevent *events, int max, int ms)
{
    struct timespec timeout = {ms / 1000, ms % 1000 * 1000000L};

    return kevent(kq, NULL, 0, events, max, &timeout);
}

/* Waits for one event, which has to be that descriptor's and filter's; returns it. */
static struct kevent wait_one(int kq, int fd, int filter)
{
    struct kevent events[ROOM];

    memset(events, 0, sizeof events);
    CHECK_EQUAL(wait_ms(kq, events, ROOM, SOON_MS), 1);
    CHECK_EQUAL((int)events[0].ident, fd);
    CHECK_EQUAL((int)events[0].filter, filter);
    CHECK_EQUAL(events[0].flags & EV_ERROR, 0);
    CHECK_EQUAL(events[0].udata == (filter == EVFILT_READ ? &mark_read : &mark_write), 1);
    return events[0];
}

static void expect_nothing(int kq)
{
    struct kevent events[ROOM];

    CHECK_EQUAL(wait_ms(kq, events, ROOM, 0), 0);
}

/* ---- answers ---- */

static void test_filters(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];

    pair_local(fd);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    expect_nothing(kq);
    put(fd[1], "abc", 3);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_READ).data, 3);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_READ).data, 3); /* level-triggered */
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_READ).flags & EV_EOF, 0);
    CHECK_EQUAL(change(kq, fd[0], EVFILT_WRITE, EV_ADD | EV_ENABLE, &mark_write), 0);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_WRITE).flags & EV_EOF, 0);
    fill(fd[0]);
    expect_nothing(kq);
    drain(fd[1]);
    wait_one(kq, fd[0], EVFILT_WRITE);
    CHECK_EQUAL(delete_write(kq, fd[0]), 0);
    expect_nothing(kq);
    close_both(fd);
    close(kq);
}

/* READ and WRITE of a descriptor: two events in one batch. Returns the first's filter. */
static int wait_both(int kq, int fd)
{
    struct kevent events[ROOM];

    CHECK_EQUAL(wait_ms(kq, events, ROOM, SOON_MS), 2);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL((int)events[i].ident, fd);
        CHECK_EQUAL(events[i].udata ==
                        (events[i].filter == EVFILT_READ ? &mark_read : &mark_write),
                    1);
    }
    CHECK_EQUAL(events[0].filter != events[1].filter, 1);
    return events[0].filter;
}

static void test_both_filters(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];

    pair_local(fd);
    put(fd[1], "abc", 3);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    CHECK_EQUAL(add_write(kq, fd[0]), 0);
    wait_both(kq, fd[0]);
    wait_both(kq, fd[0]);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    CHECK_EQUAL(delete_write(kq, fd[0]), 0);
    close_both(fd);
    close(kq);
}

/* Both filters of all descriptors are ready: with little room, all come in time. */
static void expect_all(int kq, const int *fd, int count, int room)
{
    struct kevent events[ROOM];
    int rounds = 2 * (2 * count / room + 1);
    int missing = 2 * count;
    bool *came = calloc((size_t)missing, sizeof *came);

    for (int round = 0; round < rounds; round++) {
        int n = wait_ms(kq, events, room, SOON_MS);
        CHECK_EQUAL(n > 0 && n <= room, 1);
        for (int i = 0; i < n; i++) {
            long which = 2 * ((int *)events[i].udata - fd);
            which += events[i].filter == EVFILT_WRITE;
            missing -= !came[which];
            came[which] = true;
        }
    }
    CHECK_EQUAL(missing, 0);
    free(came);
}

static void test_little_room(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[8], pair[2];

    pair_local(pair);
    put(pair[1], "x", 1);
    for (int i = 0; i < 8; i++) {
        fd[i] = must(dup(pair[0]), "dup");
        CHECK_EQUAL(change(kq, fd[i], EVFILT_READ, EV_ADD, &fd[i]), 0);
        CHECK_EQUAL(change(kq, fd[i], EVFILT_WRITE, EV_ADD, &fd[i]), 0);
    }
    for (int room = 1; room <= ROOM; room++)
        expect_all(kq, fd, 8, room);
    for (int i = 0; i < 8; i++) {
        CHECK_EQUAL(delete_write(kq, fd[i]), 0);
        CHECK_EQUAL(delete_read(kq, fd[i]), 0);
        close(fd[i]);
    }
    close_both(pair);
    close(kq);
}

static void test_end_of_file(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];
    struct kevent event;

    pair_local(fd);
    put(fd[1], "abc", 3);
    shutdown(fd[1], SHUT_WR);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    event = wait_one(kq, fd[0], EVFILT_READ);
    CHECK_EQUAL(event.flags & EV_EOF, EV_EOF);
    CHECK_EQUAL(event.data, 3);
    CHECK_EQUAL(event.fflags, 0);
    CHECK_EQUAL(read(fd[0], (char[4]){0}, 4), 3);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_READ).flags & EV_EOF, EV_EOF);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    CHECK_EQUAL(add_write(kq, fd[0]), 0);
    /* The peer still reads. */
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_WRITE).flags & EV_EOF, 0);
    fill(fd[0]);
    expect_nothing(kq);
    close(fd[1]);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_WRITE).flags & EV_EOF, EV_EOF);
    CHECK_EQUAL(delete_write(kq, fd[0]), 0);
    close(fd[0]);
    close(kq);
}

static void test_reset(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];
    struct kevent event;

    pair_tcp(fd);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    expect_nothing(kq);
    close_reset(fd[1]);
    event = wait_one(kq, fd[0], EVFILT_READ);
    CHECK_EQUAL(event.flags & EV_EOF, EV_EOF);
    CHECK_EQUAL(event.fflags, ECONNRESET);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    CHECK_EQUAL(add_write(kq, fd[0]), 0);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_WRITE).flags & EV_EOF, EV_EOF);
    CHECK_EQUAL(delete_write(kq, fd[0]), 0);
    expect_nothing(kq);
    /* The events have not consumed the error. */
    CHECK_FAILS(read(fd[0], &(char){0}, 1), ECONNRESET);
    close(fd[0]);
    close(kq);
}

static void test_pipe(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];

    pair_pipe(fd);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    expect_nothing(kq);
    put(fd[1], "abc", 3);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_READ).data, 3);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    close_both(fd);
    pair_pipe(fd);
    CHECK_EQUAL(add_write(kq, fd[1]), 0);
    CHECK_EQUAL(wait_one(kq, fd[1], EVFILT_WRITE).flags & EV_EOF, 0);
    fill(fd[1]);
    expect_nothing(kq);
    CHECK_EQUAL(delete_write(kq, fd[1]), 0);
    close_both(fd);
    close(kq);
}

#ifdef KQUEUE_STAND_IN
/* Kernels differ in how often they report a closed pipe; three pipes show each way. */
static void test_pipe_end(void)
{
    int reported[4] = {0, 0, 0, 0};

    for (int pipes = 0; pipes < 3; pipes++) {
        int kq = must(kqueue(), "kqueue");
        int fd[2], times = 0;
        struct kevent event;

        pair_pipe(fd);
        CHECK_EQUAL(add_read(kq, fd[0]), 0);
        close(fd[1]);
        while (times < 3 && wait_ms(kq, &event, 1, 50) == 1)
            times++;
        reported[times]++;
        CHECK_EQUAL(delete_read(kq, fd[0]), 0);
        close(fd[0]);
        close(kq);
    }
    CHECK_EQUAL(reported[0] == 1 && reported[1] == 1 && reported[3] == 1, 1);
}
#endif

static void test_listener(void)
{
    struct sockaddr_in address;
    int kq = must(kqueue(), "kqueue");
    int listener = listener_open(&address);
    int client, accepted;

    CHECK_EQUAL(add_read(kq, listener), 0);
    expect_nothing(kq);
    client = client_open(&address);
    CHECK_EQUAL(wait_one(kq, listener, EVFILT_READ).data, 1);
    accepted = must(accept(listener, NULL, NULL), "accept");
    expect_nothing(kq);
    CHECK_EQUAL(delete_read(kq, listener), 0);
    close(accepted);
    close(client);
    close(listener);
    close(kq);
}

static void test_change_errors(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];
    struct kevent changes[3];

    pair_local(fd);
    close(fd[1]);
    CHECK_FAILS(add_read(kq, -1), EBADF);
    CHECK_FAILS(add_read(kq, fd[1]), EBADF);
    CHECK_FAILS(add_write(kq, fd[1]), EBADF);
    CHECK_FAILS_2(delete_read(kq, fd[1]), EBADF, ENOENT); /* macOS says the latter */
    CHECK_FAILS_2(delete_read(kq, 100000), EBADF, ENOENT);
    CHECK_FAILS(delete_read(kq, fd[0]), ENOENT);
    CHECK_FAILS(delete_write(kq, fd[0]), ENOENT);
    EV_SET(&changes[0], (uintptr_t)fd[0], EVFILT_READ, EV_ADD, 0, 0, &mark_read);
    EV_SET(&changes[1], (uintptr_t)fd[0], EVFILT_WRITE, EV_DELETE, 0, 0, NULL);
    EV_SET(&changes[2], (uintptr_t)fd[0], EVFILT_WRITE, EV_ADD, 0, 0, NULL);
    CHECK_FAILS(kevent(kq, changes, 3, NULL, 0, NULL), ENOENT);
    CHECK_FAILS(delete_write(kq, fd[0]), ENOENT); /* the third was not made */
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);       /* the first was */
    CHECK_EQUAL(kevent(kq, NULL, 0, NULL, 0, NULL), 0);
    close(fd[0]);
    close(kq);
    CHECK_FAILS(kevent(kq, changes, 1, NULL, 0, NULL), EBADF);
    CHECK_FAILS(kevent(kq, NULL, 0, changes, 1, NULL), EBADF);
    CHECK_FAILS(kevent(-1, NULL, 0, changes, 1, NULL), EBADF);
}

/* A kqueue that is closed takes its filters with it: none is left to delete. */
static void test_kqueue_closed_first(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];

    pair_local(fd);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    CHECK_EQUAL(add_write(kq, fd[0]), 0);
    close(kq);
    close_both(fd);
}

/* Numbers of descriptors and kqueues are reused: nothing of the old ones is left. */
static void test_numbers_reused(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2], number;

    pair_local(fd);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    close(kq);
    CHECK_EQUAL(kqueue(), kq); /* the lowest number that is free */
    put(fd[1], "x", 1);
    expect_nothing(kq);
    CHECK_FAILS(delete_read(kq, fd[0]), ENOENT);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_READ).data, 1);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    number = fd[0];
    close_both(fd);
    pair_local(fd);
    CHECK_EQUAL(fd[0], number);
    CHECK_FAILS(delete_read(kq, fd[0]), ENOENT);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    expect_nothing(kq);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    close_both(fd);
    close(kq);
}

static void test_timeout(void)
{
    struct timespec nanosecond = {0, 1}, wrong = {0, 1000000000};
    struct kevent event;
    int kq = must(kqueue(), "kqueue");
    int fd[2];

    for (int ms = 0; ms <= 1100; ms = ms * 11 + 1) { /* 0, 1, 12, 133 */
        long since = clock_ms();
        CHECK_EQUAL(wait_ms(kq, &event, 1, ms), 0);
        CHECK_WAITED(since, ms);
    }
    CHECK_EQUAL(kevent(kq, NULL, 0, &event, 1, &nanosecond), 0);
    CHECK_FAILS(kevent(kq, NULL, 0, &event, 1, &wrong), EINVAL);
    pair_pipe(fd);
    put(fd[1], "x", 1);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    CHECK_EQUAL(kevent(kq, NULL, 0, &event, 1, NULL), 1);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    close_both(fd);
    close(kq);
}

static void test_signal(void)
{
    struct kevent event;
    int kq = must(kqueue(), "kqueue");

    ticks_start();
    CHECK_FAILS(kevent(kq, NULL, 0, &event, 1, NULL), EINTR);
    CHECK_EQUAL(ticks_stop() >= 1, 1);
    close(kq);
}

static void test_fork(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2], status;
    pid_t child;

    pair_local(fd);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    child = (pid_t)must((int)fork(), "fork");
    if (child == 0) {
        close(fd[0]); /* the child's own affair: no rule is broken */
        _exit(wait_ms(kq, &(struct kevent){.ident = 0}, 1, 0) < 0 ? errno : 0);
    }
    must((int)waitpid(child, &status, 0), "waitpid");
    CHECK_EQUAL(WIFEXITED(status) ? WEXITSTATUS(status) : -1, EBADF);
    put(fd[1], "x", 1);
    CHECK_EQUAL(wait_one(kq, fd[0], EVFILT_READ).data, 1);
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    close_both(fd);
    close(kq);
}

/* ---- what only the stand-in does ---- */

#ifdef KQUEUE_STAND_IN

/* Kernels differ in which of the two comes first; here they take turns. */
static void test_order_varies(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2], first;

    pair_local(fd);
    put(fd[1], "abc", 3);
    CHECK_EQUAL(add_read(kq, fd[0]), 0);
    CHECK_EQUAL(add_write(kq, fd[0]), 0);
    for (int i = 0; i < 4; i++) {
        first = wait_both(kq, fd[0]);
        CHECK_EQUAL(wait_both(kq, fd[0]) != first, 1);
    }
    CHECK_EQUAL(delete_read(kq, fd[0]), 0);
    CHECK_EQUAL(delete_write(kq, fd[0]), 0);
    close_both(fd);
    close(kq);
}

/* The two are not neighbours, either, if other descriptors are ready. */
static void test_events_interleave(void)
{
    int kq = must(kqueue(), "kqueue");
    int fd[2];
    struct kevent events[ROOM];

    pair_local(fd);
    for (int i = 0; i < 2; i++) {
        put(fd[!i], "x", 1);
        CHECK_EQUAL(add_read(kq, fd[i]), 0);
        CHECK_EQUAL(add_write(kq, fd[i]), 0);
    }
    CHECK_EQUAL(wait_ms(kq, events, ROOM, SOON_MS), 4);
    CHECK_EQUAL(events[0].ident != events[1].ident, 1);
    CHECK_EQUAL(events[0].ident == events[2].ident, 1);
    CHECK_EQUAL(events[1].ident == events[3].ident, 1);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(delete_read(kq, fd[i]), 0);
        CHECK_EQUAL(delete_write(kq, fd[i]), 0);
    }
    close_both(fd);
    close(kq);
}

static void break_add_read_twice(int kq, const int fd[2])
{
    add_read(kq, fd[0]);
    add_read(kq, fd[0]);
}

static void break_add_write_twice(int kq, const int fd[2])
{
    add_read(kq, fd[0]);
    add_write(kq, fd[0]);
    add_write(kq, fd[0]);
}

static void break_or_filters(int kq, const int fd[2])
{
    change(kq, fd[0], EVFILT_READ | EVFILT_WRITE, EV_ADD, NULL);
}

static void break_clear(int kq, const int fd[2])
{
    change(kq, fd[0], EVFILT_READ, EV_ADD | EV_CLEAR, NULL);
}

static void break_receipt(int kq, const int fd[2])
{
    change(kq, fd[0], EVFILT_READ, EV_ADD | EV_RECEIPT, NULL);
}

static void break_disable(int kq, const int fd[2])
{
    change(kq, fd[0], EVFILT_READ, EV_ADD | EV_DISABLE, NULL);
}

static void break_enable_alone(int kq, const int fd[2])
{
    change(kq, fd[0], EVFILT_READ, EV_ENABLE, NULL);
}

static void break_close_reader(int kq, const int fd[2])
{
    add_read(kq, fd[0]);
    close(fd[0]);
}

static void break_close_half_deleted(int kq, const int fd[2])
{
    add_read(kq, fd[0]);
    add_write(kq, fd[0]);
    delete_read(kq, fd[0]);
    close(fd[0]);
}

static void break_close_in_second_kqueue(int kq, const int fd[2])
{
    add_write(kq, fd[0]);
    kqueue();
    close(fd[0]);
}

/* Another file takes the number, past close(). */
static void break_replace(int kq, const int fd[2])
{
    add_read(kq, fd[0]);
    dup2(fd[1], fd[0]);
    add_write(kq, fd[0]);
}

static void break_close_unseen(int kq, const int fd[2])
{
    add_read(kq, fd[0]);
    fclose(fdopen(fd[0], "r"));
    delete_read(kq, fd[0]);
}

static void break_change_and_wait(int kq, const int fd[2])
{
    struct timespec zero = {0, 0};
    struct kevent kev;

    EV_SET(&kev, (uintptr_t)fd[0], EVFILT_READ, EV_ADD, 0, 0, NULL);
    kevent(kq, &kev, 1, &kev, 1, &zero);
}

/* Runs a rule-breaker in a child of its own. Returns its status, and what it said. */
static int run_breaker(void (*breaker)(int, const int[2]), char *said, size_t size)
{
    struct rlimit no_core = {0, 0};
    int output[2], fd[2], status;
    ssize_t len;
    pid_t child;

    must(pipe(output), "pipe");
    child = (pid_t)must((int)fork(), "fork");
    if (child == 0) {
        dup2(output[1], STDERR_FILENO);
        setrlimit(RLIMIT_CORE, &no_core);
        pair_local(fd);
        breaker(must(kqueue(), "kqueue"), fd);
        _exit(0);
    }
    close(output[1]);
    must((int)waitpid(child, &status, 0), "waitpid");
    len = read(output[0], said, size - 1);
    said[must((int)len, "read")] = '\0';
    close(output[0]);
    return status;
}

static void expect_abort(void (*breaker)(int, const int[2]), const char *message)
{
    char said[1000];
    int status = run_breaker(breaker, said, sizeof said);
    char *newline = strchr(said, '\n');

    CHECK_EQUAL(WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGABRT);
    if (strncmp(said, "kqueue: descriptor ", 19) != 0 || !strstr(said, message))
        fprintf(stderr, "kqueue.c said: %s\nexpected: %s\n", said, message);
    CHECK_EQUAL(strncmp(said, "kqueue: descriptor ", 19), 0);
    CHECK_EQUAL(strstr(said, message) != NULL, 1);
    CHECK_EQUAL(newline && newline[1] == '\0', 1); /* one line */
}

static void test_stand_in(void)
{
    test_order_varies();
    test_events_interleave();
    expect_abort(break_add_read_twice, "EV_ADD of a filter that is there already");
    expect_abort(break_add_write_twice, "EV_ADD of a filter that is there already");
    expect_abort(break_or_filters, "filters are not bits");
    expect_abort(break_clear, "flags other than EV_ADD");
    expect_abort(break_receipt, "flags other than EV_ADD");
    expect_abort(break_disable, "flags other than EV_ADD");
    expect_abort(break_enable_alone, "flags other than EV_ADD");
    expect_abort(break_close_reader, "closed before its filters were deleted");
    expect_abort(break_close_half_deleted, "closed before its filters were deleted");
    expect_abort(break_close_in_second_kqueue, "closed before its filters were deleted");
    expect_abort(break_replace, "closed, or made another file");
    expect_abort(break_close_unseen, "closed, or made another file");
    expect_abort(break_change_and_wait, "changes and a wait in one kevent()");
}

#else

static void test_stand_in(void)
{
}

#endif

int main(void)
{
    hang_watch();
    test_filters();
    test_both_filters();
    test_little_room();
    test_end_of_file();
    test_reset();
    test_pipe();
#ifdef KQUEUE_STAND_IN
    test_pipe_end();
#endif
    test_listener();
    test_change_errors();
    test_kqueue_closed_first();
    test_numbers_reused();
    test_timeout();
    test_signal();
    test_fork();
    test_stand_in();
    return checks_end();
}
