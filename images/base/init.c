/*
 * init: the first process of every container. It runs one command, and says how it ended.
 *
 *     init [--handler] COMMAND [ARGUMENT…]
 *
 * - Signals that ask it to stop go to the command. Orphans are reaped.
 * - When the command has ended, every other process is killed, so that none is left that holds the
 *   pipes open. Then the last line on stderr is a report: the byte 0x1e (record separator), and
 *     {"exit_code":0,"signal":null,"cpu_ms":21.4,"peak_memory_bytes":9125888,"oom_kills":0,
 *      "pids_denied":0,"exec_errno":null}
 *   on one line. Whatever the command wrote comes before it: a forged report is never the last.
 * - It exits with the command's exit code, or 128 and the number of the signal that ended it.
 *
 * With --handler, the command's file descriptor 3 is the container's stdout, for the protocol, and
 * its descriptor 1 is stderr: what it prints goes to the logs, in any language, by any means.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP "/sys/fs/cgroup/"
#define UNKNOWN (-1LL)

/*
 * The number that follows `key` in a small file, or the first number if `key` is "".
 * UNKNOWN if there is no such file or key: cgroup files differ by version, and gVisor has none.
 */
static long long read_number(const char *path, const char *key)
{
    char text[1024];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return UNKNOWN;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return UNKNOWN;
    text[size] = '\0';
    for (char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        size_t length = strlen(key);
        if (strncmp(line, key, length) == 0 && (length == 0 || line[length] == ' ')) {
            char *end;
            long long number = strtoll(line + length, &end, 10);
            return end == line + length ? UNKNOWN : number;
        }
    }
    return UNKNOWN;
}

/* The same from the place it has in cgroup version 2, else in version 1. */
static long long read_cgroup(const char *v2, const char *v2_key, const char *v1, const char *v1_key)
{
    long long number = read_number(v2, v2_key);
    return number != UNKNOWN ? number : read_number(v1, v1_key);
}

static double cpu_milliseconds(const struct rusage *usage)
{
    long long micro = read_number(CGROUP "cpu.stat", "usage_usec");
    if (micro != UNKNOWN)
        return micro / 1e3;
    long long nano = read_number(CGROUP "cpuacct/cpuacct.usage", "");
    if (nano != UNKNOWN)
        return nano / 1e6;
    return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1e3 +
           (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e3;
}

/* A number as JSON; unknown is null. The result lives until the fourth call after this one. */
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

static void report(int status, int exec_errno)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_CHILDREN, &usage);
    long long peak = read_cgroup(CGROUP "memory.peak", "",
                                 CGROUP "memory/memory.max_usage_in_bytes", "");
    if (peak == UNKNOWN)
        peak = usage.ru_maxrss * 1024LL;
    long long oom_kills = read_cgroup(CGROUP "memory.events", "oom_kill",
                                      CGROUP "memory/memory.oom_control", "oom_kill");
    long long pids_denied = read_cgroup(CGROUP "pids.events", "max",
                                        CGROUP "pids/pids.events", "max");
    char line[512];
    int length = snprintf(
        line, sizeof line,
        "\x1e{\"exit_code\":%s,\"signal\":%s,\"cpu_ms\":%.3f,\"peak_memory_bytes\":%s,"
        "\"oom_kills\":%s,\"pids_denied\":%s,\"exec_errno\":%s}\n",
        json(WIFEXITED(status) ? WEXITSTATUS(status) : UNKNOWN),
        json(WIFSIGNALED(status) ? WTERMSIG(status) : UNKNOWN), cpu_milliseconds(&usage),
        json(peak), json(oom_kills), json(pids_denied), json(exec_errno ? exec_errno : UNKNOWN));
    /* The command may have made the pipe, which is shared with it, non-blocking. */
    fcntl(STDERR_FILENO, F_SETFL, fcntl(STDERR_FILENO, F_GETFL) & ~O_NONBLOCK);
    for (int sent = 0; sent < length;) {
        ssize_t count = write(STDERR_FILENO, line + sent, length - sent);
        if (count < 0 && errno != EINTR)
            return; /* nobody listens any more */
        sent += count > 0 ? count : 0;
    }
}

/* In the child: become the command. Comes back only with errno. */
static int become(char **command, int handler, const sigset_t *mask)
{
    /* Non-dumpable is inherited over fork; with it, /proc/self would not be ours to write. */
    prctl(PR_SET_DUMPABLE, 1);
    /* When memory runs out, the kernel is to choose the command, not init. */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t ignored = write(fd, "500", 3);
        (void)ignored;
        close(fd);
    }
    if (handler && (dup2(STDOUT_FILENO, 3) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0))
        return errno;
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(command[0], command);
    return errno;
}

int main(int argc, char **argv)
{
    int handler = argc > 1 && strcmp(argv[1], "--handler") == 0;
    char **command = argv + 1 + handler;
    if (argc < 2 + handler || getpid() != 1) {
        /* Anywhere else, killing every process would mean the user's other processes. */
        fprintf(stderr, "usage: init [--handler] COMMAND [ARGUMENT…], as the first process of a "
                        "container (without docker run --init)\n");
        return 2;
    }
    /* The command, though it has the same user, can neither trace init nor look into it. */
    prctl(PR_SET_DUMPABLE, 0);
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);

    /* Closes without a word when exec succeeds; else brings the reason. */
    int failure[2];
    pid_t child;
    if (pipe2(failure, O_CLOEXEC) < 0 || (child = fork()) < 0) {
        perror("init");
        return 125;
    }
    if (child == 0) {
        int reason = become(command, handler, &before);
        ssize_t ignored = write(failure[1], &reason, sizeof reason);
        (void)ignored;
        _exit(127);
    }
    /* Not held open here: the pipes end when the command ends or closes them. */
    close(STDIN_FILENO);
    close(STDOUT_FILENO);

    int status = 0, ended = 0;
    while (!ended) {
        int signal_number = sigwaitinfo(&all, NULL);
        if (signal_number == SIGCHLD) {
            int other;
            for (pid_t pid; (pid = waitpid(-1, &other, WNOHANG)) > 0;)
                if (pid == child) {
                    status = other;
                    ended = 1;
                }
        } else if (signal_number == SIGTERM || signal_number == SIGINT) {
            kill(child, signal_number);
        }
    }
    do
        kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno != ECHILD);

    int exec_errno = 0;
    fcntl(failure[0], F_SETFL, O_NONBLOCK);
    if (read(failure[0], &exec_errno, sizeof exec_errno) != sizeof exec_errno)
        exec_errno = 0;
    report(status, exec_errno);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
