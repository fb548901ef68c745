/* Lets a program and all that it starts find the disk full below a folder, while a file (FULL_DISK) names that folder:
 * each byte that is written there is refused with ENOSPC, as the kernel does it on a disk without a free block. What is
 * there can be read, renamed and removed, and files without a byte can be made, as on such a disk.
 *
 * The kernel is asked directly, so that nothing is looked up while a program is being loaded. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Whether an open file lies below the folder. */
static int full(int file) {
    char folder[4096], where[64], path[4096];
    const char *said = environ ? getenv("FULL_DISK") : NULL;
    int before = errno, found = 0;
    int told = said ? (int)syscall(SYS_openat, AT_FDCWD, said, O_RDONLY | O_CLOEXEC) : -1;
    if (told >= 0) {
        long named = syscall(SYS_read, told, folder, sizeof folder);
        syscall(SYS_close, told);
        snprintf(where, sizeof where, "/proc/self/fd/%d", file);
        long length = syscall(SYS_readlinkat, AT_FDCWD, where, path, sizeof path);
        found = named > 0 && length > named && memcmp(path, folder, (size_t)named) == 0 && path[named] == '/';
    }
    errno = found ? ENOSPC : before;
    return found;
}

ssize_t write(int file, const void *data, size_t size) { return size && full(file) ? -1 : syscall(SYS_write, file, data, size); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return size && full(file) ? -1 : syscall(SYS_pwrite64, file, data, size, at); }
ssize_t pwrite64(int, const void *, size_t, off64_t) __attribute__((alias("pwrite")));
ssize_t writev(int file, const struct iovec *data, int count) { return full(file) ? -1 : syscall(SYS_writev, file, data, count); }
ssize_t sendfile(int file, int from, off_t *at, size_t size) { return full(file) ? -1 : syscall(SYS_sendfile, file, from, at, size); }
ssize_t sendfile64(int, int, off64_t *, size_t) __attribute__((alias("sendfile")));
ssize_t copy_file_range(int from, off64_t *from_at, int file, off64_t *at, size_t size, unsigned flags) {
    return full(file) ? -1 : syscall(SYS_copy_file_range, from, from_at, file, at, size, flags);
}
int fallocate(int file, int mode, off_t at, off_t size) { return full(file) ? -1 : (int)syscall(SYS_fallocate, file, mode, at, size); }
int fallocate64(int, int, off64_t, off64_t) __attribute__((alias("fallocate")));
int posix_fallocate(int file, off_t at, off_t size) { return fallocate(file, 0, at, size) ? errno : 0; }
int posix_fallocate64(int, off64_t, off64_t) __attribute__((alias("posix_fallocate")));
