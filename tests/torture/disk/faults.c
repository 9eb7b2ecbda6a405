/* Fails calls of the C library that write below a folder: preloaded into a process, armed by it or by the environment.

   FAULTS_UNDER  only files whose path begins with this (a folder or a file)
   FAULTS_OPS    any of w (write), s (fsync), r (rename), t (truncate, allocate), o (open for writing), d (mkdir)
   FAULTS_AT     the number of the first call that fails, from 1; 0 only counts
   FAULTS_ERRNO  what it fails with
   FAULTS_ONCE   1: that call alone; 0: every call from then on

   FAULTS_TALLY  a file of 4096 bytes, where the counts go: calls seen and failed, what failed first and the
                 call before it

   A process that has the library in memory can call faults_arm() itself, so that forks of one warm process each get
   a fault of their own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char under[4096], ops[16];
static long at, once;
static int failure = ENOSPC;

struct tally { atomic_long seen, failed; char first[2000], before[2000]; };
static struct tally own, *tally = &own;

void faults_arm(const char *folder, const char *kinds, long n, int error, long only_once, const char *file) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR);
    if (fd >= 0) {
        void *place = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (place != MAP_FAILED) tally = place;
        close(fd);
    }
    snprintf(ops, sizeof ops, "%s", kinds);
    at = n, failure = error, once = only_once;
    snprintf(under, sizeof under, "%s", folder);
}

__attribute__((constructor)) static void from_environment(void) {
    const char *folder = getenv("FAULTS_UNDER"), *kinds = getenv("FAULTS_OPS");
    const char *n = getenv("FAULTS_AT"), *error = getenv("FAULTS_ERRNO"), *one = getenv("FAULTS_ONCE");
    const char *file = getenv("FAULTS_TALLY");
    if (folder && kinds && n)
        faults_arm(folder, kinds, atol(n), error ? atoi(error) : ENOSPC, one ? atol(one) : 0, file ? file : "");
}

static int fails(char kind, const char *path) {
    if (!under[0] || !strchr(ops, kind) || strncmp(path, under, strlen(under))) return 0;
    long n = atomic_fetch_add(&tally->seen, 1) + 1;
    if (!at || n < at || (once && n != at)) {
        if (!atomic_load(&tally->failed)) snprintf(tally->before, sizeof tally->before, "%c %s", kind, path);
        return 0;
    }
    if (atomic_fetch_add(&tally->failed, 1) == 0) snprintf(tally->first, sizeof tally->first, "%c %s", kind, path);
    errno = failure;
    return 1;
}

static int fails_fd(char kind, int fd) {
    if (!under[0]) return 0;
    int before = errno;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = before;
    if (n < 0) return 0;
    path[n] = 0;
    return fails(kind, path);
}

static int fails_at(char kind, int folder, const char *name) {
    if (!under[0] || !name) return 0;
    int before = errno;
    char path[8300] = "", link[64];
    if (name[0] != '/') {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, path, 4096);
        path[n < 0 ? 0 : n] = 0;
        strcat(path, "/");
    }
    strncat(path, name, 4096);
    errno = before;
    return fails(kind, path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OF_FD(kind, result, name, parameters, arguments) \
    result name parameters { REAL(name); return fails_fd(kind, fd) ? -1 : real arguments; }

OF_FD('w', ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n))
OF_FD('w', ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
OF_FD('w', ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
OF_FD('w', ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
OF_FD('w', ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))
OF_FD('w', ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t o), (fd, v, n, o))
OF_FD('s', int, fsync, (int fd), (fd))
OF_FD('s', int, fdatasync, (int fd), (fd))
OF_FD('t', int, ftruncate, (int fd, off_t n), (fd, n))
OF_FD('t', int, ftruncate64, (int fd, off64_t n), (fd, n))

ssize_t sendfile(int out, int in, off_t *o, size_t n) {
    static ssize_t (*real)(int, int, off_t *, size_t);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "sendfile");
    return fails_fd('w', out) ? -1 : real(out, in, o, n);
}
ssize_t copy_file_range(int in, off64_t *i, int out, off64_t *o, size_t n, unsigned flags) {
    REAL(copy_file_range);
    return fails_fd('w', out) ? -1 : real(in, i, out, o, n, flags);
}
/* These two return the error. */
int posix_fallocate(int fd, off_t o, off_t n) { REAL(posix_fallocate); return fails_fd('t', fd) ? errno : real(fd, o, n); }
int posix_fallocate64(int fd, off64_t o, off64_t n) {
    REAL(posix_fallocate64);
    return fails_fd('t', fd) ? errno : real(fd, o, n);
}

int rename(const char *a, const char *b) { REAL(rename); return fails_at('r', AT_FDCWD, b) ? -1 : real(a, b); }
int renameat(int x, const char *a, int y, const char *b) {
    REAL(renameat);
    return fails_at('r', y, b) ? -1 : real(x, a, y, b);
}
int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fails_at('d', AT_FDCWD, path) ? -1 : real(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(mkdirat);
    return fails_at('d', folder, path) ? -1 : real(folder, path, mode);
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return writes(flags) && fails_at('o', AT_FDCWD, path) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return writes(flags) && fails_at('o', folder, path) ? -1 : real(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    return strpbrk(mode, "wa+") && fails_at('o', AT_FDCWD, path) ? NULL : real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    return strpbrk(mode, "wa+") && fails_at('o', AT_FDCWD, path) ? NULL : real(path, mode);
}
