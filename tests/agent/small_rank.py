"""A rank as small as can be, for tests of the mechanism: own root, own namespaces, our init, one cgroup. No keeper."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ergosphere import system
from ergosphere.agent import cgroups, criu, provision, self_test

WAIT_S = 30.0
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@functools.cache
def criu_folder() -> Path:
    """Where `make` has provisioned a CRIU, or where one is provisioned now."""
    made, own = Path(sys.prefix) / "criu", system.home() / "criu"
    if provision.find(made) is not None:
        return made
    provision.provision(own)
    return own


@functools.cache
def tool() -> provision.CriuTool:
    """The CRIU that all tests use."""
    found = provision.find(criu_folder())
    assert found is not None
    return found


def wait_until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, f"waited {WAIT_S} s: {what}"
        time.sleep(0.005)


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += tree(int(child))
    return found


@contextmanager
def subreaper() -> Iterator[None]:
    """Orphans become ours for a while, so that a restored tree can be waited for."""
    libc = ctypes.CDLL(None)
    libc.prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(SUBREAPER, 0, 0, 0, 0)


@contextmanager
def netns() -> Iterator[int]:
    """A descriptor of a fresh network namespace with only a loopback."""
    command = ["unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 60"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    fd = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    try:
        yield fd
    finally:
        os.close(fd)


def in_net(fd: int, argv: list[str]) -> None:
    subprocess.run(["nsenter", f"--net=/proc/self/fd/{fd}", *argv], pass_fds=[fd], timeout=WAIT_S, check=True)


class Rank:
    """Runs `argv` with working directory /tmp/work (= `folder`/work), output in `out`, errors in `err`."""

    def __init__(self, folder: Path, name: str, version: int | None = None) -> None:
        self.folder, self.name = folder, name
        self.root, self.work, self.images = folder / f"root-{name}", folder / "work", folder / f"images-{name}"
        for path in (self.root, self.work, self.images):
            path.mkdir(exist_ok=True)
        self.group = cgroups.freezer(f"ergo-test-{os.getpid()}/{name}", cgroups.choose(version))
        self.group.create()
        self.criu = criu.Criu(tool().argv_prefix)
        self.leader: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.restored = False

    @property
    def out(self) -> Path:
        return self.work / f"out.{self.name}"

    @property
    def err(self) -> Path:
        return self.work / f"err.{self.name}"

    def start(self, argv: list[str], net_fd: int | None = None) -> None:
        """Returns when the program has written something."""
        into = ["nsenter", f"--net=/proc/self/fd/{net_fd}"] if net_fd is not None else []
        flags = ["--pid", "--time", "--mount", "--ipc", "--uts", "--propagation", "private", "--fork"]
        flags += [] if net_fd is not None else ["--net"]
        command = [*into, "unshare", *flags, "sh", "-c", self._recipe(argv)]
        self.leader = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[net_fd] if net_fd is not None else [],
        )
        wait_until(lambda: self._said() or self.leader.poll() is not None, f"output of {argv}")
        assert self._said(), self.err.read_text() if self.err.exists() else "the rank did not start"
        self.pid = int(Path(f"/proc/{self.leader.pid}/task/{self.leader.pid}/children").read_text().split()[0])
        for pid in tree(self.pid):
            self.group.add(pid)

    def _said(self) -> bool:
        return self.out.exists() and self.out.stat().st_size > 0

    def _recipe(self, argv: list[str]) -> str:
        r = shlex.quote(str(self.root))
        if not (self.work / "init").exists():  # the checkout may lie in /tmp, of which the rank has its own
            shutil.copy2(self_test.init_binary(), self.work / "init")
        out, err, status = (f"/tmp/work/{kind}.{self.name}" for kind in ("out", "err", "status"))
        return f"""set -e
            mount --make-rprivate /; mount --bind / {r}; mount --bind /dev {r}/dev
            mount -t tmpfs tmpfs {r}/dev/shm; mount -t tmpfs -o mode=1777 tmpfs {r}/tmp
            mkdir {r}/tmp/work; mount --bind {shlex.quote(str(self.work))} {r}/tmp/work; mount -t proc proc {r}/proc
            ip link set lo up 2>/dev/null || true
            cd {r}; pivot_root . .; umount -l .; cd /tmp/work
            exec setsid /tmp/work/init 3 {shlex.join(argv)} </dev/null >>{out} 2>>{err} 3>>{status}"""

    def dump(
        self, net_fd: int | None = None, tcp: criu.Tcp = criu.Tcp.ESTABLISHED
    ) -> subprocess.CompletedProcess[bytes]:
        mounts = ("--external", "mnt[/tmp/work]:work", "--external", "mnt[/dev]:dev")
        inode = os.fstat(net_fd).st_ino if net_fd is not None else None
        order = criu.Dump(self.pid, self.images, self.group.path, mounts, inode, tcp)
        return subprocess.run(self.criu.dump_argv(order), capture_output=True, timeout=WAIT_S)

    def kill(self) -> None:
        self.group.kill()
        self._reap()

    def _reap(self) -> None:
        if self.leader is not None:
            self.leader.wait(WAIT_S)
            self.leader = None
        if self.restored:
            os.kill(self.pid, signal.SIGKILL)  # should it not be in its group
            os.waitpid(self.pid, 0)
            self.restored = False

    def restore(self, net_fd: int | None = None, suspended: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Needs `subreaper()` around it."""
        root, pidfile = shlex.quote(str(self.root)), self.folder / f"pid-{self.name}"
        pidfile.unlink(missing_ok=True)
        mounts = ("--root", str(self.root), "--external", f"mnt[work]:{self.work}", "--external", "mnt[dev]:/dev")
        argv = self.criu.restore_argv(criu.Restore(self.images, pidfile, mounts, net_fd))
        stage = f'mount --make-rprivate /; mount --bind / {root}; exec "$@"'
        environment = dict(os.environ) | ({criu.SUSPEND_VARIABLE: str(self.group.path)} if suspended else {})
        ended = subprocess.run(
            ["unshare", "-m", "sh", "-c", stage, "sh", *argv],
            env=environment,
            capture_output=True,
            timeout=WAIT_S,
            pass_fds=[net_fd] if net_fd is not None else [],
        )
        if ended.returncode == 0:
            self.pid, self.restored = int(pidfile.read_text()), True
        return ended

    def log(self, name: str) -> str:
        return (self.images / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        self.kill()
        self.group.remove()
        parent = self.group.path.parent
        if not [path for path in parent.iterdir() if path.is_dir()]:
            parent.rmdir()


@contextmanager
def rank(folder: Path, name: str = "r0", version: int | None = None) -> Iterator[Rank]:
    with subreaper():
        made = Rank(folder, name, version)
        try:
            yield made
        finally:
            made.close()


def python(code: str) -> list[str]:
    """A Python program without site-packages, for ranks that need no more."""
    return [os.path.realpath(sys.executable), "-I", "-S", "-c", code]
