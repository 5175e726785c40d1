#define _GNU_SOURCE
#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "network.h"

#define CGROUP "/sys/fs/cgroup/"
/* A function can make any number of files; only so many are looked at. */
#define MOST_FILES 1000

/* A number in a file of the cgroup; `key` is the word before it, or "". */
struct number {
    const char *v2, *v2_key, *v1, *v1_key;
    int fd;
    const char *key;
};

/* cgroup files differ by version, and gVisor has none. */
static struct number cpu = {CGROUP "cpu.stat", "usage_usec", CGROUP "cpuacct/cpuacct.usage", "", -1, ""};
static struct number peak_memory = {CGROUP "memory.peak", "",
                                    CGROUP "memory/memory.max_usage_in_bytes", "", -1, ""};
static struct number oom_kills = {CGROUP "memory.events", "oom_kill",
                                  CGROUP "memory/memory.oom_control", "oom_kill", -1, ""};
static struct number pids_denied = {CGROUP "pids.events", "max", CGROUP "pids/pids.events", "max", -1, ""};

static char nonce[64];

static void open_number(struct number *number)
{
    number->fd = open(number->v2, O_RDONLY | O_CLOEXEC);
    number->key = number->v2_key;
    if (number->fd < 0) {
        number->fd = open(number->v1, O_RDONLY | O_CLOEXEC);
        number->key = number->v1_key;
    }
}

void report_prepare(void)
{
    open_number(&cpu);
    open_number(&peak_memory);
    open_number(&oom_kills);
    open_number(&pids_denied);
    char *value = getenv("SANDBOX_NONCE");
    if (value == NULL)
        return;
    snprintf(nonce, sizeof nonce, "%s", value);
    memset(value, 0, strlen(value)); /* /proc/1/environ shows this memory */
    unsetenv("SANDBOX_NONCE");
}

static long long read_number(const struct number *number)
{
    char text[1024];
    ssize_t size = number->fd < 0 ? -1 : pread(number->fd, text, sizeof text - 1, 0);
    if (size <= 0)
        return UNKNOWN;
    text[size] = '\0';
    size_t length = strlen(number->key);
    for (char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, number->key, length) == 0 && (length == 0 || line[length] == ' ')) {
            char *end;
            long long value = strtoll(line + length, &end, 10);
            return end == line + length ? UNKNOWN : value;
        }
    }
    return UNKNOWN;
}

long long container_cpu(void)
{
    long long used = read_number(&cpu);
    return used == UNKNOWN ? UNKNOWN : cpu.key[0] != '\0' ? used * 1000 : used;
}

static double cpu_milliseconds(const struct rusage *usage)
{
    long long nano = container_cpu();
    if (nano != UNKNOWN)
        return nano / 1e6;
    return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1e3 +
           (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e3;
}

/* A number as JSON; unknown is null. The result lives until the eighth call after this one. */
static const char *json(long long number)
{
    static char texts[8][24];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    if (number == UNKNOWN)
        return "null";
    snprintf(text, sizeof texts[0], "%lld", number);
    return text;
}

/* Whether a file system has no block or no inode left, as JSON; its used bytes in `used`. */
static const char *is_full(const char *path, long long *used)
{
    struct statvfs state;
    if (statvfs(path, &state) < 0 || state.f_blocks == 0)
        return "null";
    *used = (long long)((state.f_blocks - state.f_bfree) * state.f_frsize);
    /* Some file systems count no inodes at all. */
    return state.f_bfree == 0 || (state.f_files > 0 && state.f_ffree == 0) ? "true" : "false";
}

/* Size of the largest file that lies in a directory itself. */
static long long largest_file(const char *path)
{
    long long largest = UNKNOWN;
    DIR *directory = opendir(path);
    if (directory == NULL)
        return largest;
    struct dirent *entry;
    for (int seen = 0; seen < MOST_FILES && (entry = readdir(directory)) != NULL; seen++) {
        struct stat state;
        if (fstatat(dirfd(directory), entry->d_name, &state, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(state.st_mode) && state.st_size > largest)
            largest = state.st_size;
    }
    closedir(directory);
    return largest;
}

void tell(const char *text)
{
    static char line[8192];
    int length = snprintf(line, sizeof line, "\x1e%s%s", nonce, text);
    /* The command may have made the pipe, which is shared with it, non-blocking. */
    fcntl(STDERR_FILENO, F_SETFL, fcntl(STDERR_FILENO, F_GETFL) & ~O_NONBLOCK);
    for (int sent = 0; sent < length;) {
        ssize_t count = write(STDERR_FILENO, line + sent, length - sent);
        if (count < 0 && errno != EINTR)
            return; /* nobody listens any more */
        sent += count > 0 ? count : 0;
    }
}

void report(const int *status, int exec_errno, unsigned long long stdout_bytes)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_CHILDREN, &usage);
    long long tmp_bytes = UNKNOWN, shm_bytes = UNKNOWN;
    const char *tmp_full = is_full("/tmp", &tmp_bytes), *shm_full = is_full("/dev/shm", &shm_bytes);
    size_t denied_more;
    const char *denied = network_denied(&denied_more);

    static char line[8000];
    int length = snprintf(
        line, sizeof line,
        "{\"exit_code\":%s,\"signal\":%s,\"exec_errno\":%s,\"cpu_ms\":%.3f,"
        "\"peak_memory_bytes\":%s,\"oom_kills\":%s,\"pids_denied\":%s,",
        json(status && WIFEXITED(*status) ? WEXITSTATUS(*status) : UNKNOWN),
        json(status && WIFSIGNALED(*status) ? WTERMSIG(*status) : UNKNOWN),
        json(exec_errno ? exec_errno : UNKNOWN), cpu_milliseconds(&usage),
        json(read_number(&peak_memory)), json(read_number(&oom_kills)), json(read_number(&pids_denied)));
    snprintf(line + length, sizeof line - length,
             "\"tmp_bytes\":%s,\"tmp_full\":%s,\"shm_full\":%s,\"largest_file\":%s,"
             "\"denied\":[%s],\"denied_more\":%zu,\"stdout_bytes\":%llu}\n",
             json(tmp_bytes), tmp_full, shm_full,
             json(tmp_bytes > 0 ? largest_file("/tmp") : UNKNOWN), denied, denied_more, stdout_bytes);
    tell(line);
}
