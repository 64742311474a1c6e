/*
 * PID 1 of a rank: `init STATUS_FD CMD ARGS...` (CMD is a path; nothing is searched here).
 *
 * It starts CMD as the main child in a session of its own, reaps every zombie, forwards the signals that mean
 * something to a program, and when the main child ends writes how it ended to STATUS_FD and leaves (the kernel then
 * ends whatever is left in the PID namespace). One line is written, once:
 *     "<raw 32-bit wait status in decimal>\n"   the main child ran and ended
 *     "exec <errno>\n"                          CMD could not be executed
 * Its own exit code is the child's, or 128 + n for signal n, 127/126 for a failed exec, 125 for a failure of init.
 *
 * Freestanding on purpose: no C library, so one prebuilt file of a few kilobytes runs under every distribution, and
 * a snapshot of it is a handful of pages. Signals are blocked and waited for, never handled: there is no race.
 * Build: see the Makefile beside this file.
 */

typedef unsigned long word;

#if defined(__x86_64__)
enum { SYS_write = 1, SYS_read = 0, SYS_close = 3, SYS_rt_sigaction = 13, SYS_rt_sigprocmask = 14, SYS_pipe2 = 293,
       SYS_clone = 56, SYS_execve = 59, SYS_wait4 = 61, SYS_kill = 62, SYS_fcntl = 72, SYS_setsid = 112,
       SYS_rt_sigtimedwait = 128, SYS_exit_group = 231 };

static inline long call(long n, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n\thlt\n");

#elif defined(__aarch64__)
enum { SYS_write = 64, SYS_read = 63, SYS_close = 57, SYS_rt_sigaction = 134, SYS_rt_sigprocmask = 135, SYS_pipe2 = 59,
       SYS_clone = 220, SYS_execve = 221, SYS_wait4 = 260, SYS_kill = 129, SYS_fcntl = 25, SYS_setsid = 157,
       SYS_rt_sigtimedwait = 137, SYS_exit_group = 94 };

static inline long call(long n, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl begin\n");

#else
#error "init.c knows x86_64 and aarch64: add this machine's system call numbers and entry point"
#endif

enum { SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGKILL = 9, SIGUSR1 = 10, SIGUSR2 = 12, SIGTERM = 15, SIGCHLD = 17,
       SIGCONT = 18, SIGSTOP = 19, SIGWINCH = 28, SIGNALS_MAX = 64 };
enum { SIG_SETMASK = 2, WNOHANG = 1, F_SETFD = 2, FD_CLOEXEC = 1, O_CLOEXEC = 02000000 };
enum { ENOENT = 2, EINTR = 4, EINVAL = 22 };
enum { EXIT_INIT = 125, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127 };

struct action { word handler, flags, restorer, mask; };

static void leave(int code)
{
	for (;;)
		call(SYS_exit_group, code, 0, 0, 0, 0);
}

/* Decimal, newline, one write: a reader sees the whole line or none of it. */
static void report(int fd, const char *prefix, unsigned value)
{
	char line[32];
	int at = sizeof(line), skip = 0;

	line[--at] = '\n';
	do {
		line[--at] = '0' + value % 10;
		value /= 10;
	} while (value);
	while (prefix[skip])
		skip++;
	while (skip)
		line[--at] = prefix[--skip];
	while (call(SYS_write, fd, (long)(line + at), sizeof(line) - at, 0, 0) == -EINTR)
		;
}

static int number(const char *text)
{
	int value = 0;

	if (!*text)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || value > 1000000)
			return -1;
		value = value * 10 + (*text - '0');
	}
	return value;
}

/* In the main child: a session of its own, default signals, then the program. Comes back only with an errno. */
static int become(char **argv, char **envp)
{
	struct action standard = { 0, 0, 0, 0 };
	word none = 0;
	int signal;

	call(SYS_setsid, 0, 0, 0, 0, 0);
	for (signal = 1; signal <= SIGNALS_MAX; signal++)
		call(SYS_rt_sigaction, signal, (long)&standard, 0, sizeof(word), 0);
	call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof(word), 0);
	return -call(SYS_execve, (long)argv[0], (long)argv, (long)envp, 0, 0);
}

/* PID of the main child once it runs its program; otherwise the failure is reported and init leaves. */
static int start(int status_fd, char **argv, char **envp)
{
	int ends[2], error = 0;
	long pid, got;

	if (call(SYS_pipe2, (long)ends, O_CLOEXEC, 0, 0, 0) < 0)
		leave(EXIT_INIT);
	pid = call(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid < 0) {
		report(status_fd, "exec ", -pid);
		leave(EXIT_INIT);
	}
	if (pid == 0) {
		error = become(argv, envp);
		call(SYS_write, ends[1], (long)&error, sizeof(error), 0, 0);
		leave(EXIT_NOT_FOUND);
	}
	call(SYS_close, ends[1], 0, 0, 0, 0);
	/* The pipe closes by itself when the program is there: nothing of it is left open afterwards. */
	do
		got = call(SYS_read, ends[0], (long)&error, sizeof(error), 0, 0);
	while (got == -EINTR);
	call(SYS_close, ends[0], 0, 0, 0, 0);
	if (got == sizeof(error)) {
		report(status_fd, "exec ", error);
		leave(error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
	}
	return pid;
}

/* Reaps all that have ended; if the main child is among them, says so and leaves. */
static void reap(int main_pid, int status_fd)
{
	int status = 0;
	long pid;

	while ((pid = call(SYS_wait4, -1, (long)&status, WNOHANG, 0, 0)) > 0) {
		if (pid != main_pid)
			continue;
		report(status_fd, "", (unsigned)status);
		leave(status & 0x7f ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
	}
}

static void forward(int main_pid, int signal)
{
	if (call(SYS_kill, -main_pid, signal, 0, 0, 0) < 0)
		call(SYS_kill, main_pid, signal, 0, 0, 0);
}

#define BIT(signal) (1UL << ((signal) - 1))

__attribute__((used)) void begin(word *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);
	char **envp = argv + argc + 1;
	word all = ~0UL;
	word waited = BIT(SIGCHLD) | BIT(SIGTERM) | BIT(SIGINT) | BIT(SIGHUP) | BIT(SIGQUIT) | BIT(SIGUSR1) |
		      BIT(SIGUSR2) | BIT(SIGCONT) | BIT(SIGWINCH);
	int status_fd = argc > 2 ? number(argv[1]) : -1;
	int main_pid;

	if (status_fd < 0 || call(SYS_fcntl, status_fd, F_SETFD, FD_CLOEXEC, 0, 0) < 0)
		leave(EXIT_INIT);
	call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, sizeof(word), 0);
	main_pid = start(status_fd, argv + 2, envp);
	for (;;) {
		long signal;

		/* A child may have ended before the first wait; after that SIGCHLD is always seen, being blocked. */
		reap(main_pid, status_fd);
		signal = call(SYS_rt_sigtimedwait, (long)&waited, 0, 0, sizeof(word), 0);
		if (signal > 0 && signal != SIGCHLD)
			forward(main_pid, (int)signal);
	}
}
