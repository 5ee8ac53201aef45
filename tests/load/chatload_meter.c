/*
 * chatload_meter.c - clocks, the server's CPU time and memory, progress, failure
 *
 * Wall time on a shared machine is mostly noise, so the meter is the server's own CPU
 * time: all its threads, with the kernel's work for its system calls, to the nanosecond
 * (clock_getcpuclockid(3)). macOS does not offer it.
 */
#include "chatload.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_read(clockid_t clock)
{
    struct timespec t;

    if (clock_gettime(clock, &t) < 0)
        fail_errno("clock_gettime");
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

uint64_t clock_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

#ifdef __APPLE__

static uint64_t process_cpu(pid_t pid)
{
    fail("this system does not tell the CPU time of process %ld", (long)pid);
}

#else

static uint64_t process_cpu(pid_t pid)
{
    clockid_t clock;
    int error = clock_getcpuclockid(pid, &clock);

    if (error)
        fail("cannot read the CPU time of process %ld: %s", (long)pid, strerror(error));
    return clock_read(clock);
}

#endif

struct meter meter_read(const struct load *load, const struct meter *before)
{
    pid_t pid = load->options.pid;
    struct meter meter = {.wall = clock_ns(),
                          .own_cpu = clock_read(CLOCK_PROCESS_CPUTIME_ID),
                          .server_cpu = pid ? process_cpu(pid) : 0};

    if (before) {
        meter.wall -= before->wall;
        meter.own_cpu -= before->own_cpu;
        meter.server_cpu -= before->server_cpu;
    }
    return meter;
}

/* Returns the bytes in the line that begins with key ("KEY: 12 kB"), or -1. */
static int64_t memory_read(const char *path, const char *key)
{
    long long kib = -1;
    char text[256];
    FILE *stream = fopen(path, "r");

    if (!stream)
        return -1;
    while (kib < 0 && fgets(text, sizeof text, stream))
        if (strncmp(text, key, strlen(key)) == 0)
            kib = strtoll(text + strlen(key), NULL, 10);
    fclose(stream);
    return kib < 0 ? -1 : kib * 1024;
}

int64_t meter_memory(const struct load *load, const char *file, const char *key)
{
    char path[64];

    if (!load->options.pid)
        return -1;
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)load->options.pid, file);
    return memory_read(path, key);
}

int64_t meter_kernel_memory(void)
{
    return memory_read("/proc/meminfo", "Slab:");
}

static bool progress_shown;

static void progress_clear(void)
{
    if (progress_shown)
        fputs("\r\033[K", stderr);
    progress_shown = false;
}

void progress(const struct load *load, const char *what, uint64_t done, uint64_t total)
{
    static uint64_t last;
    uint64_t now = clock_ns();

    if (done < total && now - last < SECOND / 5)
        return;
    last = now;
    progress_clear();
    if (done < total && isatty(STDERR_FILENO)) {
        fprintf(stderr, "%s: %llu of %llu %s", load->options.mode->name,
                (unsigned long long)done, (unsigned long long)total, what);
        fflush(stderr);
        progress_shown = true;
    }
}

_Noreturn static void complain(const char *text, const char *separator, const char *why)
{
    progress_clear();
    fprintf(stderr, "chatload: %s%s%s\n", text, separator, why);
    exit(1);
}

void fail(const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    complain(text, "", "");
}

void fail_errno(const char *format, ...)
{
    const char *why = strerror(errno);
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    complain(text, ": ", why);
}

const char *quote(char text[QUOTED_SIZE], const char *bytes, size_t len)
{
    size_t used = 0;

    text[used++] = '"';
    for (size_t i = 0; i < len && i < QUOTE_MAX; i++) {
        const char *format = bytes[i] >= ' ' && bytes[i] <= '~' ? "%c" : "\\x%02x";
        used += (size_t)snprintf(text + used, QUOTED_SIZE - used, format,
                                 (unsigned char)bytes[i]);
    }
    snprintf(text + used, QUOTED_SIZE - used, len > QUOTE_MAX ? "\"..." : "\"");
    return text;
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);

    if (!memory)
        fail("out of memory: %zu times %zu bytes", count, size);
    return memory;
}
