/*
 * Fails calls of the program on its ledger, as a disk would: loaded before libc by LD_PRELOAD.
 *
 * FAREGATE_FAULT=call:first:count:errno   call is fdatasync (with fsync), write (with pwrite), open or ftruncate; of the calls that
 *                                         concern the ledger's files, those from number `first` on, `count` of them, fail
 * FAREGATE_FAULT_MARK=file                made when a call was failed
 *
 * A write that fails for want of room writes its first half, as a full disk does.
 *
 * FAREGATE_ADJTIMEX=number                what adjtimex answers: a state of the clock, or with a minus an errno
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <sys/types.h>
#include <unistd.h>

static char call[32];
static long first, count, error;
static atomic_long seen;

__attribute__((constructor)) static void read_order(void) {
    const char *order = getenv("FAREGATE_FAULT");
    if (!order || sscanf(order, "%31[a-z]:%ld:%ld:%ld", call, &first, &count, &error) != 4) call[0] = 0;
}

static void *next(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

static int is_ledger(const char *path) {
    return path && strstr(path, "ledger.db");
}

static int is_ledger_fd(int fd) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_ledger(path);
}

/* Whether this call, one of `name` on the ledger, is to fail. */
static int fails(const char *name) {
    if (strcmp(name, call)) return 0;
    long number = atomic_fetch_add(&seen, 1) + 1;
    if (number < first || number >= first + count) return 0;
    const char *mark = getenv("FAREGATE_FAULT_MARK");
    if (mark) {
        int (*real)(const char *, int, ...) = next("open");
        int fd = real(mark, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        if (fd >= 0) close(fd);
    }
    errno = (int)error;
    return 1;
}

int fdatasync(int fd) {
    if (is_ledger_fd(fd) && fails("fdatasync")) return -1;
    return ((int (*)(int))next("fdatasync"))(fd);
}

int fsync(int fd) {
    if (is_ledger_fd(fd) && fails("fdatasync")) return -1;
    return ((int (*)(int))next("fsync"))(fd);
}

static ssize_t real_pwrite(int fd, const void *bytes, size_t length, off64_t at) {
    return ((ssize_t (*)(int, const void *, size_t, off64_t))next("pwrite64"))(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    if (is_ledger_fd(fd) && fails("write")) {
        if (error == ENOSPC && length > 1) real_pwrite(fd, bytes, length / 2, at);
        errno = (int)error;
        return -1;
    }
    return real_pwrite(fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite64(fd, bytes, length, at);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (call[0] == 'w' && is_ledger_fd(fd) && fails("write")) return -1;
    return ((ssize_t (*)(int, const void *, size_t))next("write"))(fd, bytes, length);
}

int ftruncate64(int fd, off64_t length) {
    if (is_ledger_fd(fd) && fails("ftruncate")) return -1;
    return ((int (*)(int, off64_t))next("ftruncate64"))(fd, length);
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}

static int open_with(const char *name, const char *path, int flags, mode_t mode) {
    if (is_ledger(path) && fails("open")) return -1;
    return ((int (*)(const char *, int, ...))next(name))(path, flags, mode);
}

#define OPEN(name)                                          \
    int name(const char *path, int flags, ...) {            \
        va_list rest;                                       \
        va_start(rest, flags);                              \
        mode_t mode = flags & O_CREAT ? va_arg(rest, int) : 0; \
        va_end(rest);                                       \
        return open_with(#name, path, flags, mode);         \
    }
OPEN(open)
OPEN(open64)

int adjtimex(struct timex *timex) {
    const char *order = getenv("FAREGATE_ADJTIMEX");
    if (!order) return ((int (*)(struct timex *))next("adjtimex"))(timex);
    int answer = atoi(order);
    if (answer >= 0) return answer;
    errno = -answer;
    return -1;
}
