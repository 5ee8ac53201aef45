/*
 * evloop_test.c - every promise of final/evloop.h, the same test for both backends
 *
 * Compile it for epoll and, with -DEVLOOP_KQUEUE, for kqueue. It asks for what evloop.h
 * promises and nothing more, so both pass where they differ. Prints "ok N checks"; the
 * first broken promise ends the test by abort(), with its place on stderr.
 */
#include "../../final/evloop.h"

#include "sockets.h"

#include <sys/resource.h>

enum { BOTH = EVLOOP_READ | EVLOOP_WRITE };
enum { MANY = EVLOOP_BATCH + 50 };

static int mark_a, mark_b; /* what data points to */

static int loop_open(void)
{
    return must(evloop_open(), "evloop_open");
}

/*
 * Waits once, with room for all. Returns what came for data; nothing else may come.
 * kqueue reports READ and WRITE as two events.
 */
static int wait_for(int loop, const void *data, int timeout_ms)
{
    struct evloop_event events[8];
    int n = evloop_wait(loop, events, 8, timeout_ms);
    int ready = 0;

    CHECK_EQUAL(n >= 0 && n <= 2, 1);
    for (int i = 0; i < n; i++) {
        CHECK_EQUAL(events[i].data == data, 1);
        CHECK_EQUAL(events[i].ready & ready, 0);
        CHECK_EQUAL(events[i].ready > 0 && events[i].ready <= BOTH, 1);
        ready |= events[i].ready;
    }
    return ready;
}

/* ---- interest ---- */

static void test_read(void)
{
    int loop = loop_open();
    int fd[2];

    pair_local(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    put(fd[1], "abc", 3);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ); /* level-triggered */
    put(fd[1], "d", 1);
    CHECK_EQUAL(read(fd[0], (char[2]){0}, 2), 2);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ); /* one byte is left */
    drain(fd[0]);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close_both(fd);
    close(loop);
}

static void test_write(void)
{
    int loop = loop_open();
    int fd[2];

    pair_local(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_WRITE, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE); /* level-triggered */
    put(fd[1], "abc", 3);
    /* READ was not asked for. */
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    fill(fd[0]);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    drain(fd[1]);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_WRITE), 0);
    close_both(fd);
    close(loop);
}

static void test_both(void)
{
    int loop = loop_open();
    int fd[2];

    pair_local(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], BOTH, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    put(fd[1], "abc", 3);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), BOTH);
    fill(fd[0]);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    drain(fd[0]);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    CHECK_EQUAL(evloop_del(loop, fd[0], BOTH), 0);
    drain(fd[1]);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0); /* deleted, though ready */
    close_both(fd);
    close(loop);
}

/* Every change from one interest to another, on a descriptor that is ready for both. */
static void test_changes(void)
{
    int loop = loop_open();
    int fd[2];

    pair_local(fd);
    put(fd[1], "abc", 3);
    for (int old = 0; old <= BOTH; old++)
        for (int interest = 0; interest <= BOTH; interest++) {
            CHECK_EQUAL(evloop_add(loop, fd[0], old, &mark_a), 0);
            CHECK_EQUAL(wait_for(loop, &mark_a, old ? SOON_MS : 0), old);
            CHECK_EQUAL(evloop_mod(loop, fd[0], old, interest, &mark_a), 0);
            CHECK_EQUAL(wait_for(loop, &mark_a, interest ? SOON_MS : 0), interest);
            CHECK_EQUAL(evloop_del(loop, fd[0], interest), 0);
            CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
        }
    close_both(fd);
    close(loop);
}

/* An interest of 0: not watched, not even for the hang-up that epoll reports unasked. */
static void test_no_interest(void)
{
    int loop = loop_open();
    int fd[2];

    pair_local(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], 0, &mark_a), 0);
    CHECK_EQUAL(evloop_mod(loop, fd[0], 0, BOTH, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    CHECK_EQUAL(evloop_mod(loop, fd[0], BOTH, 0, &mark_a), 0);
    close(fd[1]);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    CHECK_EQUAL(evloop_mod(loop, fd[0], 0, EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS) & EVLOOP_READ, EVLOOP_READ);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    CHECK_EQUAL(evloop_del(loop, fd[0], 0), 0);
    close(fd[0]);
    close(loop);
}

/* ---- what is watched ---- */

static void test_pipe(void)
{
    int loop = loop_open();
    int fd[2];

    pair_pipe(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    put(fd[1], "abc", 3);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    drain(fd[0]);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close_both(fd);
    close(loop);
}

#if defined(__linux__) && !defined(EVLOOP_KQUEUE)
/* epoll calls this a hang-up and nothing else: it has to count as readable. */
static void test_pipe_end(void)
{
    int loop = loop_open();
    int fd[2];

    pair_pipe(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    close(fd[1]);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(read(fd[0], (char[1]){0}, 1), 0);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close(fd[0]);
    close(loop);
}
#endif

static void test_listener(void)
{
    struct sockaddr_in address;
    int listener = listener_open(&address);
    int loop = loop_open();
    int client, accepted;

    CHECK_EQUAL(evloop_add(loop, listener, EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    client = client_open(&address);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    accepted = must(accept(listener, NULL, NULL), "accept");
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    CHECK_EQUAL(evloop_del(loop, listener, EVLOOP_READ), 0);
    close(client);
    close(accepted);
    close(listener);
    close(loop);
}

/* Each descriptor's own data comes back, and NULL will do as well. */
static void test_data(void)
{
    int loop = loop_open();
    int first[2], second[2];

    pair_local(first);
    pair_local(second);
    CHECK_EQUAL(evloop_add(loop, first[0], EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(evloop_add(loop, second[0], EVLOOP_READ, &mark_b), 0);
    put(second[1], "x", 1);
    CHECK_EQUAL(wait_for(loop, &mark_b, SOON_MS), EVLOOP_READ);
    put(first[1], "x", 1);
    drain(second[0]);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(evloop_mod(loop, first[0], EVLOOP_READ, BOTH, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), BOTH);
    CHECK_EQUAL(evloop_del(loop, first[0], BOTH), 0);
    CHECK_EQUAL(evloop_add(loop, first[0], BOTH, NULL), 0);
    CHECK_EQUAL(wait_for(loop, NULL, SOON_MS), BOTH);
    CHECK_EQUAL(evloop_del(loop, first[0], BOTH), 0);
    CHECK_EQUAL(evloop_del(loop, second[0], EVLOOP_READ), 0);
    close_both(first);
    close_both(second);
    close(loop);
}

/* A descriptor's number is reused at once, with other data. */
static void test_number_reused(void)
{
    int loop = loop_open();
    int first[2], second[2];

    pair_local(first);
    pair_local(second);
    put(first[1], "old", 3);
    CHECK_EQUAL(evloop_add(loop, first[0], BOTH, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), BOTH);
    CHECK_EQUAL(evloop_del(loop, first[0], BOTH), 0);
    close(first[0]);
    CHECK_EQUAL(dup2(second[0], first[0]), first[0]);
    CHECK_EQUAL(evloop_add(loop, first[0], EVLOOP_READ, &mark_b), 0);
    CHECK_EQUAL(wait_for(loop, &mark_b, 0), 0);
    put(second[1], "new", 3);
    CHECK_EQUAL(wait_for(loop, &mark_b, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(evloop_del(loop, first[0], EVLOOP_READ), 0);
    close_both(first);
    close_both(second);
    close(loop);
}

/* close(2) releases a loop and all that it watched; a new loop knows nothing of it. */
static void test_loop_closed(void)
{
    int loop = loop_open();
    int other = loop_open();
    int fd[2];

    pair_local(fd);
    put(fd[1], "x", 1);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(evloop_add(other, fd[0], BOTH, &mark_b), 0); /* loops are independent */
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(wait_for(other, &mark_b, SOON_MS), BOTH);
    close(loop);
    loop = loop_open(); /* likely with the same number */
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_WRITE, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    close(loop);
    CHECK_EQUAL(wait_for(other, &mark_b, SOON_MS), BOTH);
    close(other);
    close_both(fd);
}

/* ---- ends and errors ---- */

/* Data first, then the end; and the end is reported again while READ is watched. */
static void expect_data_then_end(const int fd[2], int loop)
{
    char bytes[4];
    long got = 0, n;

    put(fd[1], "0123456789", 10);
    close(fd[1]);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    do {
        CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
        n = read(fd[0], bytes, sizeof bytes);
        CHECK_EQUAL(n >= 0 || errno == EAGAIN, 1);
        got += n > 0 ? n : 0;
    } while (n != 0);
    CHECK_EQUAL(got, 10);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close(fd[0]);
}

static void test_end_after_data(void)
{
    int loop = loop_open();
    int fd[2];

    pair_tcp(fd);
    expect_data_then_end(fd, loop);
    pair_local(fd);
    expect_data_then_end(fd, loop);
    close(loop);
}

/* The peer sends no more but still reads: READ reports it, and writing goes on. */
static void test_half_close(void)
{
    int loop = loop_open();
    int fd[2];

    pair_tcp(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    shutdown(fd[1], SHUT_WR);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(read(fd[0], (char[1]){0}, 1), 0);
    CHECK_EQUAL(evloop_mod(loop, fd[0], EVLOOP_READ, EVLOOP_WRITE, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    put(fd[0], "abc", 3);
    CHECK_EQUAL(evloop_add(loop, fd[1], EVLOOP_READ, &mark_b), 0);
    CHECK_EQUAL(evloop_mod(loop, fd[0], EVLOOP_WRITE, 0, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_b, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(read(fd[1], (char[4]){0}, 4), 3);
    CHECK_EQUAL(evloop_del(loop, fd[1], EVLOOP_READ), 0);
    close_both(fd);
    close(loop);
}

/* With WRITE only, the peer's end of file does not wake up a loop that cannot send. */
static void test_half_close_unasked(void)
{
    int loop = loop_open();
    int fd[2];

    pair_local(fd);
    fill(fd[0]);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_WRITE, &mark_a), 0);
    shutdown(fd[1], SHUT_WR);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    drain(fd[1]);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_WRITE);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_WRITE), 0);
    close_both(fd);
    close(loop);
}

/* The peer resets the connection: READ is reported, and the read gives the error. */
static void test_reset(void)
{
    int loop = loop_open();
    int fd[2];

    pair_tcp(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, 0), 0);
    close_reset(fd[1]);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_FAILS(read(fd[0], (char[1]){0}, 1), ECONNRESET);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close(fd[0]);
    close(loop);
}

/* The same with interest in both. */
static void test_reset_both(void)
{
    int loop = loop_open();
    int fd[2];
    int ready;

    pair_tcp(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], BOTH, &mark_a), 0);
    close_reset(fd[1]);
    do {
        ready = wait_for(loop, &mark_a, SOON_MS);
        CHECK_EQUAL(ready != 0, 1);
    } while (!(ready & EVLOOP_READ)); /* WRITE alone may come before the reset */
    CHECK_FAILS(read(fd[0], (char[1]){0}, 1), ECONNRESET);
    CHECK_EQUAL(evloop_del(loop, fd[0], BOTH), 0);
    close(fd[0]);
    close(loop);
}

/* With WRITE only, a broken connection wakes up a loop that cannot send. */
static void expect_end_for_writer(const int fd[2], int loop, void (*end)(int))
{
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_WRITE, &mark_a), 0);
    do
        fill(fd[0]);
    while (wait_for(loop, &mark_a, 100) != 0); /* TCP's buffers grow for a while */
    end(fd[1]);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS) != 0, 1);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS) != 0, 1);
    CHECK_EQUAL(write(fd[0], "x", 1), -1);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_WRITE), 0);
    close(fd[0]);
}

static void end_close(int fd)
{
    must(close(fd), "close");
}

static void test_end_for_writer(void)
{
    int loop = loop_open();
    int fd[2];

    pair_tcp(fd);
    expect_end_for_writer(fd, loop, close_reset);
    pair_tcp(fd);
    expect_end_for_writer(fd, loop, end_close); /* with bytes unread: a reset */
    pair_local(fd);
    expect_end_for_writer(fd, loop, end_close);
    close(loop);
}

static void test_errors(void)
{
    int loop = loop_open();
    int fd[2];
    struct evloop_event event;

    pair_local(fd);
    close(fd[1]);
    CHECK_FAILS(evloop_add(loop, fd[1], EVLOOP_READ, &mark_a), EBADF);
    CHECK_FAILS(evloop_add(loop, fd[1], EVLOOP_WRITE, &mark_a), EBADF);
    CHECK_FAILS(evloop_add(loop, -1, BOTH, &mark_a), EBADF);
    CHECK_FAILS(evloop_mod(loop, fd[1], 0, BOTH, &mark_a), EBADF);
    /* ENOENT: macOS */
    CHECK_FAILS_2(evloop_del(loop, fd[1], EVLOOP_READ), EBADF, ENOENT);
    CHECK_FAILS(evloop_del(loop, fd[0], EVLOOP_READ), ENOENT); /* never added */
    CHECK_FAILS(evloop_del(loop, fd[0], EVLOOP_WRITE), ENOENT);
    /* The loop is as good as before. */
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    CHECK_EQUAL(wait_for(loop, &mark_a, SOON_MS), EVLOOP_READ);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close(loop);
    CHECK_FAILS(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), EBADF);
    CHECK_FAILS(evloop_wait(loop, &event, 1, 0), EBADF);
    close(fd[0]);
}

static void test_open_fails(void)
{
    struct rlimit limit, none;

    must(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
    none = limit;
    none.rlim_cur = 0;
    must(setrlimit(RLIMIT_NOFILE, &none), "setrlimit");
    CHECK_FAILS(evloop_open(), EMFILE);
    must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
}

/* ---- many ---- */

/*
 * Waits again and again, with room for max events. All descriptors of the crowd stay
 * ready for interest. No wait may give more than max events, and within that many rounds
 * each descriptor has to come, in whatever order.
 */
static void expect_all(int loop, const int *crowd, int count, int interest, int max,
                       int rounds)
{
    static struct evloop_event events[MANY + 1];
    int *got = calloc((size_t)count, sizeof *got);
    int missing = count;

    for (int round = 0; round < rounds; round++) {
        int n;

        for (int i = 0; i <= MANY; i++)
            events[i] = (struct evloop_event){.data = &mark_a, .ready = -1};
        n = evloop_wait(loop, events, max, SOON_MS);
        CHECK_EQUAL(n > 0 && n <= max && n <= EVLOOP_BATCH, 1);
        for (int i = 0; i < n; i++) {
            long which = (int *)events[i].data - crowd;
            CHECK_EQUAL(which >= 0 && which < count, 1);
            CHECK_EQUAL(events[i].ready & ~interest, 0);
            missing -= got[which] != interest;
            got[which] |= events[i].ready;
            missing += got[which] != interest;
        }
        CHECK_EQUAL(events[n].data == &mark_a && events[n].ready == -1, 1);
    }
    CHECK_EQUAL(missing, 0);
    free(got);
}

/* Makes count descriptors that are ready for both; the data of each is its place. */
static void crowd_open(int loop, int pair[2], int *crowd, int count, int interest)
{
    pair_local(pair);
    put(pair[1], "x", 1);
    for (int i = 0; i < count; i++) {
        crowd[i] = must(dup(pair[0]), "dup");
        CHECK_EQUAL(evloop_add(loop, crowd[i], interest, &crowd[i]), 0);
    }
}

static void crowd_close(int loop, const int pair[2], const int *crowd, int count,
                        int interest)
{
    for (int i = 0; i < count; i++) {
        CHECK_EQUAL(evloop_del(loop, crowd[i], interest), 0);
        must(close(crowd[i]), "close");
    }
    CHECK_EQUAL(wait_for(loop, NULL, 0), 0);
    close_both(pair);
}

/* More are ready than there is room for: nobody starves. */
static void test_small_batches(void)
{
    int loop = loop_open();
    int pair[2], crowd[8];

    for (int interest = EVLOOP_READ; interest <= BOTH; interest++) {
        crowd_open(loop, pair, crowd, 8, interest);
        expect_all(loop, crowd, 8, interest, 1, 32);
        expect_all(loop, crowd, 8, interest, 3, 12);
        expect_all(loop, crowd, 8, interest, 16, 1);
        crowd_close(loop, pair, crowd, 8, interest);
    }
    close(loop);
}

/* More are ready than EVLOOP_BATCH, and the caller has room for all of them. */
static void test_large_batches(void)
{
    int loop = loop_open();
    int pair[2];
    static int crowd[MANY];

    for (int interest = EVLOOP_READ; interest <= BOTH; interest++) {
        crowd_open(loop, pair, crowd, MANY, interest);
        expect_all(loop, crowd, MANY, interest, MANY, 8);
        crowd_close(loop, pair, crowd, MANY, interest);
    }
    close(loop);
}

/* ---- time ---- */

static void test_timeout(void)
{
    static const int timeouts[] = {0, 1, 50, 1100};
    struct evloop_event event;
    int loop = loop_open();
    int fd[2];

    pair_local(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    for (int i = 0; i < 4; i++) {
        long since = clock_ms();
        CHECK_EQUAL(evloop_wait(loop, &event, 1, timeouts[i]), 0);
        CHECK_WAITED(since, timeouts[i]);
    }
    put(fd[1], "x", 1);
    for (int i = 0; i < 4; i++)
        CHECK_EQUAL(evloop_wait(loop, &event, 1, timeouts[i]), 1);
    CHECK_EQUAL(evloop_wait(loop, &event, 1, -1), 1);
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close_both(fd);
    close(loop);
}

/* A wait without a timeout ends when something comes, however late. */
static void test_for_ever(void)
{
    struct evloop_event event;
    int loop = loop_open();
    int fd[2];
    pid_t child;

    pair_pipe(fd);
    CHECK_EQUAL(evloop_add(loop, fd[0], EVLOOP_READ, &mark_a), 0);
    child = (pid_t)must((int)fork(), "fork");
    if (child == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        _exit(write(fd[1], "x", 1) == 1 ? 0 : 1);
    }
    CHECK_EQUAL(evloop_wait(loop, &event, 1, -1), 1);
    CHECK_EQUAL(event.data == &mark_a && event.ready == EVLOOP_READ, 1);
    must((int)waitpid(child, NULL, 0), "waitpid");
    CHECK_EQUAL(evloop_del(loop, fd[0], EVLOOP_READ), 0);
    close_both(fd);
    close(loop);
}

/* A signal ends a wait, with no events. */
static void test_signal(void)
{
    struct evloop_event event;
    int loop = loop_open();

    ticks_start();
    CHECK_EQUAL(evloop_wait(loop, &event, 1, -1), 0);
    CHECK_EQUAL(ticks_stop() >= 1, 1);
    ticks_start();
    CHECK_EQUAL(evloop_wait(loop, &event, 1, 1000 * DEADLINE_S), 0);
    CHECK_EQUAL(ticks_stop() >= 1, 1);
    close(loop);
}

static void descriptors_allow(rlim_t count)
{
    struct rlimit limit;

    must(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
    if (limit.rlim_cur < count)
        limit.rlim_cur = count;
    must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
}

int main(void)
{
    hang_watch();
    descriptors_allow(MANY + 50);
    test_read();
    test_write();
    test_both();
    test_changes();
    test_no_interest();
    test_pipe();
#if defined(__linux__) && !defined(EVLOOP_KQUEUE)
    test_pipe_end();
#endif
    test_listener();
    test_data();
    test_number_reused();
    test_loop_closed();
    test_end_after_data();
    test_half_close();
    test_half_close_unasked();
    test_reset();
    test_reset_both();
    test_end_for_writer();
    test_errors();
    test_open_fails();
    test_small_batches();
    test_large_batches();
    test_timeout();
    test_for_ever();
    test_signal();
    return checks_end();
}
