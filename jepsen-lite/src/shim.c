/*
 * What a failing disk and a wrong clock look like to a node: loaded before the C library, it delays
 * or fails what writes and syncs files of one folder, and shifts the time, as a file says that both
 * processes map. It is compiled when a run needs it.
 *
 * A full disk takes what overwrites and refuses what grows a file, as file systems do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The layout is that of disk.rs. */
struct control {
    uint32_t sync_delay_ms;
    uint32_t sync_errno;
    uint32_t write_errno;
    uint32_t is_full;
    int64_t clock_offset_ms;
    uint64_t syncs_delayed;
    uint64_t syncs_failed;
    uint64_t writes_failed;
};

static struct control nothing;
static volatile struct control *control = &nothing;
static const char *folder = "/nowhere/";

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("JEPSEN_SHIM_CONTROL");
    const char *under = getenv("JEPSEN_SHIM_FOLDER");
    if (!path || !under) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return;
    folder = under;
    control = mapped;
}

/* Whether this is a file of the folder. Asked only while something is wrong with it. */
static int is_ours(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static void count(volatile uint64_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* The error that a sync shall have; 0: none. */
static int of_sync(int fd)
{
    if ((!control->sync_delay_ms && !control->sync_errno) || !is_ours(fd)) return 0;
    if (control->sync_delay_ms) {
        uint32_t ms = control->sync_delay_ms;
        struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};
        count(&control->syncs_delayed);
        while (nanosleep(&left, &left) && errno == EINTR) {}
    }
    if (control->sync_errno) count(&control->syncs_failed);
    return (int)control->sync_errno;
}

/* The error that a write of bytes up to `end` shall have; 0: none. `end` < 0: where the file is. */
static int of_write(int fd, off_t at, size_t bytes)
{
    if ((!control->write_errno && !control->is_full) || !is_ours(fd)) return 0;
    int wrong = (int)control->write_errno;
    struct stat now;
    if (!wrong && fstat(fd, &now) == 0 && S_ISREG(now.st_mode)) {
        int flags = fcntl(fd, F_GETFL);
        if (at < 0) at = (flags & O_APPEND) ? now.st_size : lseek(fd, 0, SEEK_CUR);
        if (at >= 0 && at + (off_t)bytes > now.st_size) wrong = ENOSPC;
    }
    if (wrong) count(&control->writes_failed);
    return wrong;
}

static size_t bytes_of(const struct iovec *parts, int many)
{
    size_t sum = 0;
    for (int i = 0; i < many; i++) sum += parts[i].iov_len;
    return sum;
}

#define FAILS(wrong) \
    do { int code = (wrong); if (code) { errno = code; return -1; } } while (0)

int fsync(int fd) { REAL(fsync); FAILS(of_sync(fd)); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); FAILS(of_sync(fd)); return real(fd); }

ssize_t write(int fd, const void *from, size_t bytes)
{
    REAL(write);
    FAILS(of_write(fd, -1, bytes));
    return real(fd, from, bytes);
}

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at)
{
    REAL(pwrite);
    FAILS(of_write(fd, at, bytes));
    return real(fd, from, bytes, at);
}

ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t at)
{
    REAL(pwrite64);
    FAILS(of_write(fd, at, bytes));
    return real(fd, from, bytes, at);
}

ssize_t writev(int fd, const struct iovec *parts, int many)
{
    REAL(writev);
    FAILS(of_write(fd, -1, bytes_of(parts, many)));
    return real(fd, parts, many);
}

ssize_t pwritev(int fd, const struct iovec *parts, int many, off_t at)
{
    REAL(pwritev);
    FAILS(of_write(fd, at, bytes_of(parts, many)));
    return real(fd, parts, many, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int many, off64_t at)
{
    REAL(pwritev64);
    FAILS(of_write(fd, at, bytes_of(parts, many)));
    return real(fd, parts, many, at);
}

int fallocate(int fd, int mode, off_t at, off_t bytes)
{
    REAL(fallocate);
    FAILS(of_write(fd, at, (size_t)bytes));
    return real(fd, mode, at, bytes);
}

int posix_fallocate(int fd, off_t at, off_t bytes)
{
    REAL(posix_fallocate);
    int wrong = of_write(fd, at, (size_t)bytes);
    return wrong ? wrong : real(fd, at, bytes);
}

int statvfs(const char *path, struct statvfs *to)
{
    REAL(statvfs);
    int result = real(path, to);
    if (result == 0 && control->is_full) {
        to->f_bavail = to->f_bfree = 0;
        count(&control->writes_failed);
    }
    return result;
}

int statvfs64(const char *path, struct statvfs64 *to)
{
    REAL(statvfs64);
    int result = real(path, to);
    if (result == 0 && control->is_full) {
        to->f_bavail = to->f_bfree = 0;
        count(&control->writes_failed);
    }
    return result;
}

static void shift(struct timespec *to)
{
    int64_t ns = to->tv_nsec + (control->clock_offset_ms % 1000) * 1000000;
    to->tv_sec += control->clock_offset_ms / 1000 + (ns >= 1000000000) - (ns < 0);
    to->tv_nsec = ns >= 1000000000 ? ns - 1000000000 : ns < 0 ? ns + 1000000000 : ns;
}

int clock_gettime(clockid_t clock, struct timespec *to)
{
    REAL(clock_gettime);
    int result = real ? real(clock, to) : (int)syscall(SYS_clock_gettime, clock, to);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(to);
    return result;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}
