/* A disk that fails: an LD_PRELOAD library that lets the n-th operation on files below a folder fail.
 *
 * Told by the environment, read when the library is loaded and again by failing_disk_arm():
 *
 *   FAILING_DISK_PREFIX     the folder; itself and all that is below it
 *   FAILING_DISK_OPERATION  open write sync rename unlink mkdir truncate close, or change: all that a read-only
 *                           file system would refuse
 *   FAILING_DISK_N          which one fails, from 1; 0 counts only
 *   FAILING_DISK_ERRNO      the error's number
 *   FAILING_DISK_MODE       once; on: that one and all after it; short: a write stops half-way, all after it fail
 *   FAILING_DISK_COUNTER    a file of at least 8 bytes in which the operations are counted, over all processes
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static char prefix[PATH_MAX], operation[16];
static uint64_t failing_one, private_counter, *counter = &private_counter;
static int failing_errno;
static int once, half;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static uint64_t *shared_counter(const char *path) {
    int descriptor = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return &private_counter;
    void *memory = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    REAL(close)(descriptor);
    return memory == MAP_FAILED ? &private_counter : memory;
}

__attribute__((constructor)) void failing_disk_arm(void) {
    snprintf(prefix, sizeof prefix, "%s", setting("FAILING_DISK_PREFIX"));
    snprintf(operation, sizeof operation, "%s", setting("FAILING_DISK_OPERATION"));
    failing_one = strtoull(setting("FAILING_DISK_N"), NULL, 10);
    failing_errno = atoi(setting("FAILING_DISK_ERRNO"));
    once = !strcmp(setting("FAILING_DISK_MODE"), "once");
    half = !strcmp(setting("FAILING_DISK_MODE"), "short");
    counter = shared_counter(setting("FAILING_DISK_COUNTER"));
}

static int below_prefix(int folder, const char *path) {
    char link[64], whole[2 * PATH_MAX];
    size_t length = strlen(prefix);
    if (!length || !path) return 0;
    if (path[0] != '/') {
        ssize_t size;
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        if ((size = readlink(link, whole, PATH_MAX)) < 0) return 0;
        snprintf(whole + size, sizeof whole - size, *path ? "/%s" : "%s", path);
        path = whole;
    }
    return !strncmp(path, prefix, length) && (path[length] == '/' || !path[length]);
}

/* 0: let it pass; 1: it fails; 2: it fails, as the first one. */
static int verdict(const char *name, int changes, int folder, const char *path) {
    int before = errno;
    int asked = !strcmp(operation, name) || (changes && !strcmp(operation, "change"));
    uint64_t one = 0;
    if (asked && below_prefix(folder, path)) one = __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
    int fails = one && failing_one && (once ? one == failing_one : one >= failing_one);
    errno = fails ? failing_errno : before;
    return !fails ? 0 : one == failing_one ? 2 : 1;
}

static int of_file(const char *name, int descriptor) { return verdict(name, 1, descriptor, ""); }

#define OPEN(name, parameters, folder, call_without, call_with)                                     \
    int name parameters {                                                                           \
        mode_t permissions = 0;                                                                     \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                      \
            va_list rest;                                                                           \
            va_start(rest, flags);                                                                  \
            permissions = va_arg(rest, mode_t);                                                     \
            va_end(rest);                                                                           \
        }                                                                                           \
        if (verdict("open", flags & (O_CREAT | O_WRONLY | O_RDWR), folder, path)) return -1;        \
        return (flags & (O_CREAT | __O_TMPFILE)) ? REAL(name) call_with : REAL(name) call_without;  \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags), (path, flags, permissions))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags), (path, flags, permissions))
OPEN(openat, (int at, const char *path, int flags, ...), at, (at, path, flags), (at, path, flags, permissions))
OPEN(openat64, (int at, const char *path, int flags, ...), at, (at, path, flags), (at, path, flags, permissions))

ssize_t write(int descriptor, const void *data, size_t size) {
    int refused = of_file("write", descriptor);
    if (refused == 2 && half && size > 1) return REAL(write)(descriptor, data, size / 2);
    return refused ? -1 : REAL(write)(descriptor, data, size);
}

ssize_t writev(int descriptor, const struct iovec *pieces, int count) {
    int refused = of_file("write", descriptor);
    if (refused == 2 && half && pieces[0].iov_len > 1) return REAL(write)(descriptor, pieces[0].iov_base, pieces[0].iov_len / 2);
    return refused ? -1 : REAL(writev)(descriptor, pieces, count);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return of_file("write", descriptor) ? -1 : REAL(pwrite)(descriptor, data, size, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    return of_file("write", descriptor) ? -1 : REAL(pwrite64)(descriptor, data, size, offset);
}

int fsync(int descriptor) { return of_file("sync", descriptor) ? -1 : REAL(fsync)(descriptor); }
int fdatasync(int descriptor) { return of_file("sync", descriptor) ? -1 : REAL(fdatasync)(descriptor); }
int syncfs(int descriptor) { return of_file("sync", descriptor) ? -1 : REAL(syncfs)(descriptor); }

int ftruncate(int descriptor, off_t size) { return of_file("truncate", descriptor) ? -1 : REAL(ftruncate)(descriptor, size); }
int ftruncate64(int descriptor, off64_t size) { return of_file("truncate", descriptor) ? -1 : REAL(ftruncate64)(descriptor, size); }

int close(int descriptor) {
    int refused = verdict("close", 0, descriptor, ""), cause = errno;
    int result = REAL(close)(descriptor); /* as Linux does it: closed, whatever it reports */
    if (!refused) return result;
    errno = cause;
    return -1;
}

int rename(const char *from, const char *to) { return verdict("rename", 1, AT_FDCWD, to) ? -1 : REAL(rename)(from, to); }
int renameat(int here, const char *from, int there, const char *to) {
    return verdict("rename", 1, there, to) ? -1 : REAL(renameat)(here, from, there, to);
}

int unlink(const char *path) { return verdict("unlink", 1, AT_FDCWD, path) ? -1 : REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) { return verdict("unlink", 1, at, path) ? -1 : REAL(unlinkat)(at, path, flags); }
int rmdir(const char *path) { return verdict("unlink", 1, AT_FDCWD, path) ? -1 : REAL(rmdir)(path); }

int mkdir(const char *path, mode_t permissions) { return verdict("mkdir", 1, AT_FDCWD, path) ? -1 : REAL(mkdir)(path, permissions); }
int mkdirat(int at, const char *path, mode_t permissions) {
    return verdict("mkdir", 1, at, path) ? -1 : REAL(mkdirat)(at, path, permissions);
}
