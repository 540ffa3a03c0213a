/*
 * Counts what a program writes to its ledger and how often it waits for the disk: loaded before libc by LD_PRELOAD.
 *
 * FAREGATE_CALLS=file   holds the counts as they are now: four numbers of 64 bits in the machine's order: bytes written to the log,
 *                       syncs of the log, bytes written to the ledger, syncs of the ledger
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { BYTES, SYNCS };

static _Atomic unsigned long long unshown[4], *counts = unshown;

__attribute__((constructor)) static void share_counts(void) {
    const char *path = getenv("FAREGATE_CALLS");
    int fd = path ? open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return;
    if (!ftruncate(fd, sizeof unshown)) {
        void *shared = mmap(0, sizeof unshown, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared != MAP_FAILED) counts = shared;
    }
    close(fd);
}

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), least = strlen(end);
    return length >= least && !strcmp(path + length - least, end);
}

static void count(int fd, int what, unsigned long long number) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return;
    path[length] = 0;
    if (ends_with(path, "ledger.db-wal")) atomic_fetch_add(&counts[what], number);
    if (ends_with(path, "ledger.db")) atomic_fetch_add(&counts[2 + what], number);
}

static void *next(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

int fdatasync(int fd) {
    count(fd, SYNCS, 1);
    return ((int (*)(int))next("fdatasync"))(fd);
}

int fsync(int fd) {
    count(fd, SYNCS, 1);
    return ((int (*)(int))next("fsync"))(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    count(fd, BYTES, length);
    return ((ssize_t (*)(int, const void *, size_t, off64_t))next("pwrite64"))(fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite64(fd, bytes, length, at);
}
