/* What init tells of a container: how much it has used, and in the end how it ended. */
#ifndef REPORT_H
#define REPORT_H

#define UNKNOWN (-1LL)

/* Open what the reports are read from, and take SANDBOX_NONCE out of the environment. */
void report_prepare(void);

/* Nanoseconds of CPU time of the whole container so far, or UNKNOWN. */
long long container_cpu(void);

/* Write a line of ours to stderr: the record separator, the nonce, and the text. */
void tell(const char *text);

/*
 * Write a report. `status` is waitpid's, or NULL while the command runs; `exec_errno` is 0, or why
 * it could not be run; `stdout_bytes` is how much was written to stdout so far.
 */
void report(const int *status, int exec_errno, unsigned long long stdout_bytes);

#endif
