/* Lets a program and all that it starts read a wall clock that is some seconds ahead (OTHER_CLOCK_S; behind where it is
 * negative): what a machine whose clock is wrong sees. Times of files are told by that clock too, as on such a machine.
 * Clocks that only measure how long something takes stay as they are, and so does waiting until a moment of the wall
 * clock, which the kernel knows by its own.
 *
 * The kernel is asked directly, so that nothing is looked up while a program is being loaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t ahead(void) {
    static time_t seconds;
    static int known;
    if (!known && environ) {
        const char *said = getenv("OTHER_CLOCK_S");
        seconds = said ? atol(said) : 0;
        known = 1;
    }
    return seconds;
}

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI; }

/* A moment of this clock as the kernel's. */
static struct timespec of_kernel(const struct timespec *moment) {
    struct timespec real = *moment;
    real.tv_sec -= ahead();
    return real;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && is_wall(clock)) now->tv_sec += ahead();
    return result;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = (int)syscall(SYS_gettimeofday, now, zone);
    if (result == 0) now->tv_sec += ahead();
    return result;
}

int timespec_get(struct timespec *now, int base) { return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0; }

/* --- times of files --- */

static int told(int result, struct stat *found) {
    if (result == 0) {
        found->st_mtim.tv_sec += ahead();
        found->st_atim.tv_sec += ahead();
        found->st_ctim.tv_sec += ahead();
    }
    return result;
}

int fstatat(int folder, const char *restrict path, struct stat *restrict found, int flags) {
    return told((int)syscall(SYS_newfstatat, folder, path, found, flags), found);
}
int stat(const char *restrict path, struct stat *restrict found) { return fstatat(AT_FDCWD, path, found, 0); }
int lstat(const char *restrict path, struct stat *restrict found) { return fstatat(AT_FDCWD, path, found, AT_SYMLINK_NOFOLLOW); }
int fstat(int file, struct stat *found) { return told((int)syscall(SYS_fstat, file, found), found); }
/* The names of programs with large files: the same on 64 bits. */
int fstatat64(int, const char *restrict, struct stat64 *restrict, int) __attribute__((alias("fstatat")));
int stat64(const char *restrict, struct stat64 *restrict) __attribute__((alias("stat")));
int lstat64(const char *restrict, struct stat64 *restrict) __attribute__((alias("lstat")));
int fstat64(int, struct stat64 *) __attribute__((alias("fstat")));

int statx(int folder, const char *restrict path, int flags, unsigned int mask, struct statx *restrict found) {
    int result = (int)syscall(SYS_statx, folder, path, flags, mask, found);
    if (result == 0) {
        found->stx_mtime.tv_sec += ahead();
        found->stx_atime.tv_sec += ahead();
        found->stx_ctime.tv_sec += ahead();
        found->stx_btime.tv_sec += ahead();
    }
    return result;
}

static int set_times(int folder, const char *path, const struct timespec *times, int flags) {
    struct timespec real[2];
    for (int i = 0; times && i < 2; i++) {
        real[i] = times[i].tv_nsec == UTIME_NOW || times[i].tv_nsec == UTIME_OMIT ? times[i] : of_kernel(&times[i]);
    }
    return (int)syscall(SYS_utimensat, folder, path, times ? real : NULL, flags);
}
int utimensat(int folder, const char *path, const struct timespec times[2], int flags) { return set_times(folder, path, times, flags); }
int futimens(int file, const struct timespec times[2]) { return set_times(file, NULL, times, 0); }

/* --- waiting until a moment --- */

static void *library_s(const char *name) {
    void *found = NULL;
#ifdef __x86_64__
    found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2"); /* of pthread_cond_timedwait there is an older one, which the first look finds */
#endif
    return found ? found : dlsym(RTLD_NEXT, name);
}

/* Moments of a clock that began with the boot are small: they are nobody's wall clock. */
static struct timespec until(const struct timespec *moment) { return moment->tv_sec > 1000000000 ? of_kernel(moment) : *moment; }

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict moment) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec end = until(moment);
    if (!real) real = library_s("pthread_cond_timedwait");
    return real(condition, mutex, &end);
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, clockid_t clock, const struct timespec *restrict moment) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    struct timespec end = until(moment);
    if (!real) real = library_s("pthread_cond_clockwait");
    return real(condition, mutex, clock, &end);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict moment) {
    static int (*real)(pthread_mutex_t *, const struct timespec *);
    struct timespec end = until(moment);
    if (!real) real = library_s("pthread_mutex_timedlock");
    return real(mutex, &end);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict moment) {
    static int (*real)(sem_t *, const struct timespec *);
    struct timespec end = until(moment);
    if (!real) real = library_s("sem_timedwait");
    return real(semaphore, &end);
}

int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict moment) {
    static int (*real)(sem_t *, clockid_t, const struct timespec *);
    struct timespec end = until(moment);
    if (!real) real = library_s("sem_clockwait");
    return real(semaphore, clock, &end);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *asked, struct timespec *left) {
    static int (*real)(clockid_t, int, const struct timespec *, struct timespec *);
    struct timespec end = flags & TIMER_ABSTIME ? until(asked) : *asked;
    if (!real) real = library_s("clock_nanosleep");
    return real(clock, flags, &end, left);
}
