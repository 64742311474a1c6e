"""What a forked child does to become a rank, or to become the CRIU that brings one back. Nothing here returns.

Every failure is a sentence: what was tried, on what path, and the kernel's word for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from . import kernel, root

Order = dict[str, Any]

INIT: Final = "/run/ergo/init"
OUT, ERR, STATUS = "/run/ergo/out.log", "/run/ergo/err.log", "/run/ergo/status"
STATUS_FD: Final = 3
DESCRIPTORS_MAX: Final = 1 << 20
CLEAN: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}
CRIU_NICE: Final = -10
NAMESPACES: Final = (
    kernel.CLONE_NEWPID | kernel.CLONE_NEWTIME | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)


class StepFailed(Exception):
    """One step of building a rank's world did not work."""


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Turns the kernel's refusal into a sentence."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise StepFailed(f"cannot {doing}:{where}: {error.strerror or error}") from error


def launch(order: Order, pipe: int) -> None:
    """In a forked child: tells "pid N", where N becomes PID 1 of the rank, and ends."""
    with step(f"join the cgroup {order['cgroup']}"):
        Path(order["cgroup"], "cgroup.procs").write_text(str(os.getpid()))
    with step(f"stay on the cores {order['cpus']}"):
        if order["cpus"]:
            os.sched_setaffinity(0, order["cpus"])
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # we run ahead of jobs, and they as any program
    with step("enter the job's network"):
        if order["netns"]:
            kernel.setns(order["netns"], kernel.CLONE_NEWNET)
    with step("make namespaces"):
        kernel.unshare(NAMESPACES)
    pid = os.fork()
    if pid:
        os.write(pipe, f"pid {pid}\n".encode())
        return
    _become_rank(order)


def _become_rank(order: Order) -> None:
    with step("name the host"):
        socket.sethostname(order["hostname"][:64])
    with step("build the rank's root at"):
        root.build(order["root_plan"])
    with step("enter the working directory"):
        os.chdir(order["cwd"])
    with step("open the rank's logs"):
        _open_streams()
    os.setsid()
    os.umask(0o022)
    kernel.refuse_io_uring()
    _change_user(order)
    command = find(order["argv"][0], order["env"].get("PATH", CLEAN["PATH"]))
    if command is None:
        os.write(STATUS_FD, f"exec {errno.ENOENT}\n".encode())
        os._exit(127)
    with step("start init"):
        os.execve(INIT, ["init", str(STATUS_FD), command, *order["argv"][1:]], order["env"])


def _open_streams() -> None:
    """Paths inside the root, so that they mean the same file wherever the rank lives; nothing else stays open."""
    appending = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    opened = [os.open("/dev/null", os.O_RDONLY), os.open(OUT, appending, 0o644), os.open(ERR, appending, 0o644)]
    opened.append(os.open(STATUS, appending, 0o644))
    _place(dict(enumerate(opened)))


def _change_user(order: Order) -> None:
    with step("become the job's user"):
        if order.get("gid") is not None:
            os.setgroups([])
            os.setgid(order["gid"])
        if order.get("uid") is not None:
            os.setuid(order["uid"])


def find(command: str, path: str) -> str | None:
    """As a shell finds it: the first executable on `path`, else the first file; init says why that will not run."""
    if "/" in command:
        return command
    there = [name for folder in path.split(":") if os.path.isfile(name := os.path.join(folder or ".", command))]
    return next((name for name in there if os.access(name, os.X_OK)), there[0] if there else None)


def restore(order: Order, pipe: int) -> None:
    """In a forked child: becomes `criu restore` in a mount namespace that holds what it is to put together."""
    with step("make a mount namespace"):
        kernel.unshare(kernel.CLONE_NEWNS)
    with step("lay out the rank's root at"):
        root.stage(order["root_plan"])
    run(order, pipe, {"CRIU_SUSPEND_GROUP": order["cgroup"]})


def run(order: Order, pipe: int, extra: dict[str, str] | None = None) -> None:
    """In a forked child: becomes `argv` with a clean environment, output in `log` and `fds` open at their numbers."""
    with step("enter"):
        os.chdir(order.get("cwd") or "/")
    with step("open"):
        named = {int(number): os.open(path, os.O_RDONLY) for number, path in order.get("fds", {}).items()}
        named[0] = os.open("/dev/null", os.O_RDONLY)
        named[1] = named[2] = os.open(order.get("log") or "/dev/null", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _place(named)
    with suppress(PermissionError):  # a job stands still while CRIU works; what it restores gets back its own niceness
        os.setpriority(os.PRIO_PROCESS, 0, CRIU_NICE)
    with step("run"):
        os.execvpe(order["argv"][0], order["argv"], {**CLEAN, **(extra or {})})


def _place(named: dict[int, int]) -> None:
    """Each file at its number. They are lifted above every wanted number first: no one may overwrite another."""
    floor = max(named) + 1
    lifted = {number: _lift(descriptor, floor) for number, descriptor in named.items()}
    for number, descriptor in lifted.items():
        os.dup2(descriptor, number, inheritable=True)


def _lift(descriptor: int, floor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, floor)


def ask(argv: list[str], pipe: int) -> None:
    """In a forked child: becomes `argv`, whose output is what the child tells."""
    os.dup2(pipe, 1, inheritable=True)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0, inheritable=True)
    with step("run"):
        os.execvpe(argv[0], argv, CLEAN)
