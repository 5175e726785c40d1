/*
 * init: the first process of every container. It runs one command, and says how it ended.
 *
 *     init [--handler] [--announce] [--dns] [--forward ADDRESS:PORT=SOCKET]… COMMAND [ARGUMENT…]
 *
 * - Signals that ask it to stop go to the command. Orphans are reaped.
 * - When the command has ended, every other process is killed, so that none is left that holds the
 *   pipes open. Then the last line on stderr is a report: the byte 0x1e (record separator), and
 *     {"exit_code":0,"signal":null,"exec_errno":null,"cpu_ms":21.4,"peak_memory_bytes":9125888,
 *      "oom_kills":0,"pids_denied":0,"tmp_bytes":0,"tmp_full":false,"shm_full":false,
 *      "largest_file":null,"denied":[],"denied_more":0,"stdout_bytes":57}
 *   on one line. Whatever the command wrote comes before it: a forged report is never the last.
 * - What the command writes to stdout passes through init, which follows it with such a report, of
 *   a command that has not ended: exit_code and signal are null. So its reader knows, long before
 *   the engine has taken the container down, what the answer has cost, that stdout is whole when
 *   stdout_bytes have come, and that of stderr everything has come which was written before.
 * - It exits with the command's exit code, or 128 and the number of the signal that ended it.
 *
 * With --handler, stdout is the command's file descriptor 3, for the protocol, and its descriptor 1
 * is stderr: what it prints goes to the logs, in any language, by any means.
 *
 * With --announce, a line {"ready":true} after the same byte tells on stderr that the command has
 * booted and waits: see has_settled().
 *
 * If the environment has SANDBOX_NONCE, its value, which the command never sees, stands after that
 * byte, so that nobody else can write such a line.
 *
 * With --forward, connections to an address of the loopback interface go to a Unix socket; with
 * --dns, queries for any name are answered with "no such name" and listed in the report.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "network.h"
#include "report.h"

#define MILLISECOND 1000000LL
/* How often to look whether the command has settled, in milliseconds; less often after so many. */
#define LOOK_EVERY 3
#define LOOK_LATER 50
#define LOOKS 400
/* It has, when it used no CPU for so long; the second where CPU time is counted in long ticks. */
#define QUIET_LINUX (10 * MILLISECOND)
#define QUIET_OTHER (50 * MILLISECOND)
/* How much of a flood passes before other events have their turn, in reads. */
#define ROUNDS 16
/* Reports of a running command: so many at once, and one more for each so many milliseconds or
 * bytes passed on. A handler's answer is longer than that: each of them has its report at once. */
#define REPORTS_AT_ONCE 100
#define REPORT_EVERY 5
#define REPORT_BYTES 64
/* Less CPU than this, in nanoseconds for each look, is a timer's or a garbage collector's. */
#define NOISE 50000

/* In the child: become the command. Comes back only with errno. */
static int become(char **command, int handler, int output, const sigset_t *mask)
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
    if (handler ? dup2(output, 3) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0
                : dup2(output, STDOUT_FILENO) < 0)
        return errno;
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(command[0], command);
    return errno;
}

static long long clock_now(clockid_t clock)
{
    struct timespec time;
    return clock_gettime(clock, &time) == 0 ? time.tv_sec * 1000 * MILLISECOND + time.tv_nsec : 0;
}

/* The system call that a process waits in, and its first argument, or UNKNOWN. */
static long long waits_in(pid_t pid, unsigned long long *argument)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/syscall", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return UNKNOWN;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    long long number;
    text[size > 0 ? size : 0] = '\0';
    if (sscanf(text, "%lld %llx", &number, argument) == 2)
        return number;
    return 0x10000; /* "running": known, and no call */
}

/* Whether a process waits for something to happen, and not for the disk. */
static int is_asleep(pid_t pid)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 1;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    const char *name_end = strrchr(text, ')'); /* the state follows the name */
    return name_end == NULL || strncmp(name_end, ") S", 3) == 0;
}

/*
 * Whether the command has booted and waits for its request, judged from outside, for any language:
 * its main thread is blocked reading descriptor 0; or, since event loops wait otherwise, the
 * container has used no CPU for a while. A script that sleeps before it reads looks the same, and
 * only takes its request later.
 */
static int has_settled(pid_t child)
{
    static long long quiet_since, used_before;
    unsigned long long argument;
    long long call = waits_in(child, &argument);
    if (call == SYS_read && argument == STDIN_FILENO)
        return 1;
    long long used = container_cpu();
    clockid_t clock;
    if (used != UNKNOWN)
        used -= clock_now(CLOCK_PROCESS_CPUTIME_ID);
    else if (clock_getcpuclockid(child, &clock) == 0)
        used = clock_now(clock);
    long long now = clock_now(CLOCK_MONOTONIC);
    if (quiet_since == 0 || used > used_before + NOISE || !is_asleep(child))
        quiet_since = now;
    used_before = used;
    return now - quiet_since >= (call == UNKNOWN ? QUIET_OTHER : QUIET_LINUX);
}

/* What the command's end leaves to collect; returns whether it has ended, and how in `status`. */
static int reap(pid_t child, int *status)
{
    int ended = 0, other;
    for (pid_t pid; (pid = waitpid(-1, &other, WNOHANG)) > 0;)
        if (pid == child) {
            *status = other;
            ended = 1;
        }
    return ended;
}

/* What the command writes to stdout, on its way there. */
struct output {
    int from;
    unsigned long long bytes; /* passed on so far */
};

/* Pass on what is there, or a part of a flood. Returns whether more may come. */
static int pass_on(struct output *output)
{
    static char data[65536];
    ssize_t size = 1;
    for (int round = 0; round < ROUNDS && (size = read(output->from, data, sizeof data)) > 0; round++) {
        for (ssize_t sent = 0; sent < size;) {
            ssize_t count = write(STDOUT_FILENO, data + sent, size - sent);
            if (count < 0 && errno != EINTR)
                break; /* nobody listens any more */
            sent += count > 0 ? count : 0;
        }
        output->bytes += size;
    }
    return size != 0;
}

/* A report follows what was passed on; of a command that writes byte by byte, only each few. */
struct reports {
    int owed;           /* something was passed on since the last one */
    int credit;         /* so many may be written at once */
    long long earned;   /* when the credit was last raised */
    unsigned long long paid; /* bytes that have earned something */
};

static void report_output(struct reports *reports, unsigned long long bytes)
{
    long long now = clock_now(CLOCK_MONOTONIC);
    long long earned = (now - reports->earned) / (REPORT_EVERY * MILLISECOND);
    long long for_bytes = (bytes - reports->paid) / REPORT_BYTES;
    reports->paid += for_bytes * REPORT_BYTES;
    if (earned > 0)
        reports->earned = now;
    else
        earned = 0;
    earned += for_bytes;
    reports->credit = reports->credit + earned < REPORTS_AT_ONCE ? reports->credit + earned
                                                                 : REPORTS_AT_ONCE;
    if (reports->owed && reports->credit > 0) {
        reports->owed = 0;
        reports->credit--;
        report(NULL, 0, bytes);
    }
}

/* Wait for the command's end, and serve it meanwhile. Returns its status. */
static int attend(pid_t child, int epoll, int signals, struct output *output, int announce)
{
    struct reports reports = {.credit = REPORTS_AT_ONCE};
    for (int status = 0, looks = 0;;) {
        struct epoll_event events[32];
        int pause = reports.owed ? REPORT_EVERY : -1;
        if (announce)
            pause = looks++ < LOOKS ? LOOK_EVERY : LOOK_LATER;
        int count = epoll_wait(epoll, events, 32, pause);
        for (int i = 0; i < count; i++) {
            void *source = events[i].data.ptr;
            struct signalfd_siginfo signal;
            if (source == output) {
                unsigned long long before = output->bytes;
                int more = pass_on(output);
                reports.owed |= output->bytes > before;
                if (!more) { /* all of its writers have closed it, and nobody is to wait for it */
                    epoll_ctl(epoll, EPOLL_CTL_DEL, output->from, NULL);
                    close(STDOUT_FILENO);
                }
            } else if (source != NULL)
                network_event(epoll, source, events[i].events);
            else if (read(signals, &signal, sizeof signal) != sizeof signal)
                continue;
            else if (signal.ssi_signo == SIGTERM || signal.ssi_signo == SIGINT)
                kill(child, signal.ssi_signo);
            else if (signal.ssi_signo == SIGCHLD && reap(child, &status))
                return status;
        }
        network_settle();
        report_output(&reports, output->bytes);
        if (announce && has_settled(child)) {
            announce = 0;
            tell("{\"ready\":true}\n");
        }
    }
}

static int watch(int epoll, int fd, void *source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv)
{
    int handler = 0, announce = 0, at = 1;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
        if (strcmp(argv[at], "--handler") == 0)
            handler = 1;
        else if (strcmp(argv[at], "--announce") == 0)
            announce = 1;
        else if (strcmp(argv[at], "--dns") == 0)
            network_dns(epoll);
        else if (strcmp(argv[at], "--forward") != 0 || at + 1 == argc)
            break;
        else if (network_forward(epoll, argv[++at]) < 0)
            return 125;
    }
    char **command = argv + at;
    if (at >= argc || strncmp(command[0], "--", 2) == 0 || getpid() != 1) {
        /* Anywhere else, killing every process would mean the user's other processes. */
        fprintf(stderr, "usage: init [--handler] [--announce] [--dns] [--forward ADDRESS:PORT=SOCKET]… "
                        "COMMAND [ARGUMENT…], as the first process of a container (without docker "
                        "run --init)\n");
        return 2;
    }
    /* The command, though it has the same user, can neither trace init nor look into it. */
    prctl(PR_SET_DUMPABLE, 0);
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    report_prepare();
    int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    /* The second closes without a word when exec succeeds; else it brings the reason. */
    int out[2], failure[2];
    if (signals < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(failure, O_CLOEXEC) < 0) {
        perror("init");
        return 125;
    }
    struct output output = {.from = out[0]};
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    pid_t child;
    if (watch(epoll, signals, NULL) < 0 || watch(epoll, out[0], &output) < 0 || (child = fork()) < 0) {
        perror("init");
        return 125;
    }
    if (child == 0) {
        int reason = become(command, handler, out[1], &before);
        ssize_t ignored = write(failure[1], &reason, sizeof reason);
        (void)ignored;
        _exit(127);
    }
    /* Not held open here: stdin ends for its writer, and the output for us, when the command ends
       or closes them. */
    close(STDIN_FILENO);
    close(out[1]);

    int status = attend(child, epoll, signals, &output, announce);
    do
        kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno != ECHILD);
    /* All of its writers are dead: it ends. */
    while (pass_on(&output))
        ;

    int exec_errno = 0;
    fcntl(failure[0], F_SETFL, O_NONBLOCK);
    if (read(failure[0], &exec_errno, sizeof exec_errno) != sizeof exec_errno)
        exec_errno = 0;
    report(&status, exec_errno, output.bytes);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
