"""What CRIU's log means: the first error that says why, in plain words, with what to do about it.

Every text in the table was seen, most of them with CRIU 4.1 and 4.2; what is not in the table is quoted as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LINES_MAX: Final = 12  # error lines kept for `ergo show`
LOG_BYTES_MAX: Final = 64 << 20  # a log at level 4 of a tree with 10,000 mappings is about 3 MB


@dataclass(frozen=True, slots=True)
class Failure:
    """Why CRIU failed: `cause` and `remedy` in plain words, `lines` its own last error lines.

    `passes`: it is a matter of the moment (a full disk), not of what the program holds open. `lasts`: every thaw would
    fail so until somebody puts it right.
    """

    cause: str
    remedy: str
    lines: tuple[str, ...] = ()
    passes: bool = False
    lasts: bool = False

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}" if self.remedy else self.cause


@dataclass(frozen=True, slots=True)
class _Known:
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    passes: bool
    lasts: bool


def _known(pattern: str, cause: str, remedy: str, *, passes: bool = False, lasts: bool = False) -> _Known:
    return _Known(re.compile(pattern), cause, remedy, passes, lasts)


_CLOSE = "close it before the freeze"
_ROOM = "free some space there, then try again"
_OURS = "this is a fault of ours: report it"
_SAME_FILES = "put the file back as it was, or go back to an older snapshot (ergo snapshot restore)"

_KNOWN: Final = (
    _known(
        r"anon_inode:\[io_uring\]|io_uring",
        "a process uses io_uring, which cannot be saved",
        "switch it off in the program (Node: UV_USE_IO_URING=0) or start the job with io_uring blocked",
    ),
    _known(
        r"send_fds failed \(-22\)",
        "a process has something open that the kernel does not hand over (io_uring is like that)",
        "switch io_uring off in the program (Node: UV_USE_IO_URING=0) or start the job with io_uring blocked",
    ),
    _known(r"anon_inode:\[userfaultfd\]", "a process uses userfaultfd, which cannot be saved", _CLOSE),
    _known(r"anon_inode:\[perf_event\]", "a process has a perf event open, which cannot be saved", "stop the profiler"),
    _known(r"anon_inode:bpf-\w+|Can't dump.*bpf", "a process holds a BPF object, which cannot be saved", _CLOSE),
    _known(r"anon_inode:\[?landlock", "a process holds a Landlock rule set, which cannot be saved", _CLOSE),
    _known(r"anon_inode:(\[?[\w-]+\]?)", "a process holds an open {0}, which cannot be saved", _CLOSE),
    _known(r"secretmem|memfd_secret", "a process uses secret memory (memfd_secret), which cannot be saved", _CLOSE),
    _known(r"Unknown socket collected \(family 40\)", "a process has a vsock socket, which cannot be saved", _CLOSE),
    _known(
        r"Unknown socket collected \(family (\d+)\)", "a process has a socket of family {0}: it cannot be saved", _CLOSE
    ),
    _known(
        r"type \[2\d{4}\] \(chr (\d+:\d+)\)|\(chr (\d+:\d+)\)",
        "a process has a device open (character device {0}), which cannot be saved",
        _CLOSE,
    ),
    _known(
        r"Can't get 1:16 opt",
        "this CRIU is too old for this kernel: it cannot save sockets",
        "run `ergo setup` to get CRIU 4.2 or later",
    ),
    _known(
        r"Iptables configuration failed|iptables-restore",
        "CRIU wanted iptables to hold the network and there is none",
        "this is a fault of ours: dumps are to be made with --network-lock skip",
    ),
    _known(
        r"Can't dump half of stream unix connection|External socket is used",
        "a unix socket is connected to a process outside the job",
        "end that connection before the freeze (for example a notebook client), or connect by TCP",
    ),
    _known(
        r"Can't lookup mount=\S+ .*path=(\S+)",
        "{0} is open, but its file system is not in the job's mounts (a POSIX message queue is one such)",
        _CLOSE,
    ),
    _known(
        r"Unseizable non-zombie|ptrace seize|Can't seize|Unable to .*ptrace",
        "a process is being traced (strace, gdb, py-spy)",
        "end the debugger or profiler, then try again",
    ),
    _known(
        r"Can't dump nested (\w+) namespace",
        "a process has made a {0} namespace of its own, which cannot be saved",
        "do not use containers or sandboxes (bwrap, unshare, docker) inside the job",
    ),
    _known(
        r"Can't restore sub-task in NS|Failed to open_tree",
        "a process of the job was in namespaces of its own, which cannot be brought back",
        "do not use containers or sandboxes (bwrap, unshare) inside the job; thaw from an older snapshot",
    ),
    _known(
        r"doesn't live in IPC ns", "System V memory is shared with the host", "run the job in its own IPC namespace"
    ),
    _known(
        r"can't dump unprivileged task whose /proc",
        "a process without root has no /proc of its own",
        "run the job in its own root, as ergo does by default",
    ),
    _known(
        r"Can't get rlimit|Can't set rlimit",
        "CRIU lacks CAP_SYS_RESOURCE, which a process without root needs",
        "give the agent CAP_SYS_RESOURCE, or run the job as root",
    ),
    _known(
        r"Unable to drop capability",
        "the job had fewer capabilities than CRIU has here",
        "run the agent with the same capabilities as where the job was frozen",
    ),
    _known(r"A session leader of", "a process belongs to a session outside the job", _OURS),
    _known(
        r"Can't dump tmpfs content", "a tmpfs of the job could not be read", "check that tar and gzip are installed"
    ),
    _known(r"No space left on device|ENOSPC", "the place for the image is full", _ROOM, passes=True),
    _known(
        r"Cannot allocate memory|ENOMEM|Out of memory",
        "there is not enough memory for the image",
        "free memory, then try again",
        passes=True,
    ),
    _known(
        r"ghost file .*size|Can't dump ghost file",
        "an unlinked file that is still open is larger than an image may carry",
        "close it before the freeze",
    ),
    _known(
        r"File (\S+) has bad build-ID",
        "{0} is another build than when the job was frozen",
        "install the same version again, or thaw on a node that has it",
        lasts=True,
    ),
    _known(
        r"File (\S+) has bad (size|mode) (\S+) \(expect (\S+)\)",
        "{0} has changed since the freeze ({1} is {2}, was {3})",
        _SAME_FILES,
        lasts=True,
    ),
    _known(
        r"Can't open file (\S+) on restore",
        "{0}, which was open at the freeze, is not there",
        _SAME_FILES,
        lasts=True,
    ),
    _known(
        r"Can't bind inet socket.*Address already in use",
        "a port of the job is taken on this node",
        "use the job's own network (the default) instead of --network host",
    ),
    _known(
        r"Can't connect inet socket back",
        "a connection of the job could not be put back: its address is not in the job's network, or is still in use",
        "thaw into a fresh network",
    ),
    _known(r"Can't bind id .* addr (\S+)", "the unix socket {0} of the job has lost its place", _SAME_FILES),
    _known(
        r"Can't fork for (\d+): File exists",
        "the process number {0} is taken",
        "this is a fault of ours: a job must have its own PID namespace",
    ),
    _known(
        r"CPU instruction capabilities do not match|CPU .*feature.*(not|mismatch)",
        "this node's CPU lacks instructions that the job's node had",
        "thaw on a node with the same or a newer CPU",
    ),
    _known(
        r"Script \S*suspend\.sh exited",
        "the rank could not be brought back suspended: its cgroup was gone or not frozen, so it was not brought back",
        "thaw it again",
    ),
    _known(r"cg: No set|Cgroup dir .* doesn't exist", "a cgroup of the job is gone", _OURS),
    _known(
        r"Magic doesn't match|Unexpected EOF|Can't open (\S+\.img)|Unable to open (\S+\.img)|image .*corrupt",
        "the image is damaged or incomplete",
        "thaw from the snapshot before",
    ),
    _known(
        r"Timeout reached|Unable to freeze|cgroup .*can't be frozen|Try to interrupt",
        "the tree did not come to rest in time",
        "a process waits for a device, or a group above is frozen: try again later",
        passes=True,
    ),
    _known(
        r"type \[\d+\] \((\S+) (\S+)\)",
        "a process has something open that cannot be saved ({1})",
        _CLOSE,
    ),
)

_HARMLESS: Final = re.compile(r"rlimit: Can't setup RLIMIT_NOFILE|Can't keep kdat cache|cgroupd: recv req error")
_STAMP: Final = re.compile(r"^\([\d.]+\) *(\d+: *)?")
_ERROR: Final = re.compile(r"Error \([^)]*\): ?|\bBUG\b|Unknown shit")


def explain(log: str, code: int | None = None) -> Failure:
    """The failure that a log tells of; `code` is CRIU's exit status (negative: the signal that ended it)."""
    errors = [line for line in log.splitlines() if _ERROR.search(line) and not _HARMLESS.search(line)]
    kept = tuple(line.strip() for line in errors[-LINES_MAX:])
    for line in errors:
        for known in _KNOWN:
            match = known.pattern.search(line)
            if match is not None:
                return Failure(_fill(known.cause, match), known.remedy, kept, known.passes, known.lasts)
    return Failure(_unknown(errors, code), "`ergo check` tests CRIU itself; its log is in the job's record", kept)


def explain_file(path: Path, code: int | None = None) -> Failure:
    """Like `explain`, for a log file that may be missing, damaged or huge (its last part is read)."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - LOG_BYTES_MAX))
            return explain(log.read().decode(errors="replace"), code)
    except OSError:
        return explain("", code)


def _fill(cause: str, match: re.Match[str]) -> str:
    found = [group for group in match.groups() if group is not None]
    return cause.format(*found, *("?" * 4))


def _unknown(errors: list[str], code: int | None) -> str:
    if errors:
        return f"CRIU says: {_ERROR.sub('', _STAMP.sub('', errors[0])).strip()}"
    match code:
        case None:
            return "CRIU said nothing"
        case _ if code < 0:
            return f"CRIU was ended by signal {-code}"
        case _:
            return f"CRIU ended with status {code} and said nothing"
