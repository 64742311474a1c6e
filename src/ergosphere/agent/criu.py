"""CRIU's command lines. What to run is decided here; who runs it (the keeper) and what went wrong (`criu_log`) is not.

Building an argument list is pure. Only `stage`, `warm` and the two `cpuinfo` calls touch the machine.
"""

from __future__ import annotations

import enum
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ergosphere.agent import cgroups, criu_log

SUSPEND_SCRIPT: Final = Path(__file__).with_name("suspend.sh")
SUSPEND_VARIABLE: Final = "CRIU_SUSPEND_GROUP"  # where the suspend script finds the frozen group's directory
NET_KEY: Final = "jobnet"
GHOST_LIMIT: Final = "1G"  # largest unlinked file that is carried inside an image
SEIZE_S: Final = 10  # how long CRIU itself tries to bring a tree to rest; the caller's own timeout is longer
CPUINFO_S_MAX: Final = 10.0
VERBOSITY: Final = "-v4"  # what names the file or task behind an error is said at level 4 only

_SHARED: Final = ("--link-remap", "--file-locks", "--manage-cgroups=ignore")


class CriuError(Exception):
    """CRIU could not do it; `cause` and `remedy` are plain sentences, the message is both."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy


class Tcp(enum.Enum):
    """What becomes of connections: carried along, or closed (the program sees the end of the stream)."""

    ESTABLISHED = "established"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Dump:
    """A tree to dump: `pid` its root (PID 1 of its namespace), `group` its frozen cgroup, `images` an empty folder.

    `mounts` are the ready `--external …` arguments of its mount plan; `netns_inode` names a network namespace
    that is not part of the image. The tree goes on being frozen afterwards, whatever the outcome.
    """

    pid: int
    images: Path
    group: Path
    mounts: tuple[str, ...] = ()
    netns_inode: int | None = None
    tcp: Tcp = Tcp.ESTABLISHED


@dataclass(frozen=True, slots=True)
class Restore:
    """A tree to bring back suspended: `net_fd` is the inheritable descriptor of the namespace it is to live in.

    `mounts` are the ready `--root … --external …` arguments; `pidfile` receives the root task's PID. The caller
    sets SUSPEND_VARIABLE to the frozen group's directory; unset, the tree runs at once. `streamed`: every image is
    asked for on a socket in `images` (`streaming`).
    """

    images: Path
    pidfile: Path
    mounts: tuple[str, ...] = ()
    net_fd: int | None = None
    tcp: Tcp = Tcp.ESTABLISHED
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Criu:
    """A CRIU that works here: the words before its own arguments, and where the suspend script lies."""

    prefix: tuple[str, ...]
    suspend_script: Path = SUSPEND_SCRIPT

    def dump_argv(self, order: Dump) -> list[str]:
        """The command that dumps; its log is `images/dump.log`. Frozen time is its running time."""
        argv = [*self.prefix, "dump", "-t", str(order.pid), "-D", str(order.images), "-o", "dump.log", VERBOSITY]
        argv += ["--freeze-cgroup", str(order.group), "--leave-running", "--timeout", str(SEIZE_S)]
        argv += ["--ghost-limit", GHOST_LIMIT, *_SHARED, *_tcp(order.tcp), "--network-lock", "skip", *order.mounts]
        if order.netns_inode is not None:
            argv += ["--external", f"net[{order.netns_inode}]:{NET_KEY}"]
        return argv

    def restore_argv(self, order: Restore) -> list[str]:
        """The command that restores and leaves the tree to the caller; its log is `images/restore.log`."""
        argv = [*self.prefix, "restore", "-d", "--pidfile", str(order.pidfile), "-D", str(order.images)]
        argv += ["-o", "restore.log", VERBOSITY, *_SHARED, *_tcp(order.tcp), *order.mounts]
        argv += ["--action-script", str(self.suspend_script)]
        if order.net_fd is not None:
            argv += ["--inherit-fd", f"fd[{order.net_fd}]:{NET_KEY}"]
        return [*argv, "--stream"] if order.streamed else argv

    def cpuinfo_dump(self, images: Path) -> bytes:
        """Writes what this CPU can do into `images` and returns it (some 130 bytes), to lie beside every snapshot."""
        self._run(["cpuinfo", "dump", "-D", str(images), "-o", "cpuinfo.log"], images / "cpuinfo.log")
        return (images / "cpuinfo.img").read_bytes()

    def cpuinfo_check(self, images: Path) -> None:
        """Raises CriuError if this CPU lacks something the one that wrote `images/cpuinfo.img` had."""
        self._run(["cpuinfo", "check", "-D", str(images), "-o", "cpuinfo.log", "-v2"], images / "cpuinfo.log")

    def _run(self, arguments: Sequence[str], log: Path) -> None:
        try:
            # With its output captured the end is seen at once; a bare wait with a timeout polls up to 50 ms apart.
            ended = subprocess.run(
                [*self.prefix, *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=CPUINFO_S_MAX
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CriuError(f"CRIU did not answer: {error}", "run `ergo check`") from error
        if ended.returncode != 0:
            failure = criu_log.explain_file(log, ended.returncode)
            raise CriuError(failure.cause, failure.remedy)


def _tcp(tcp: Tcp) -> tuple[str, ...]:
    return ("--tcp-established",) if tcp is Tcp.ESTABLISHED else ("--tcp-close",)


def stage(prefix: tuple[str, ...], private_root: Path | None, folder: Path) -> Criu:
    """A Criu that starts fast and whose command line names nothing but `folder` (a folder on tmpfs, made here).

    CRIU keeps what it learnt of the kernel in a file under /run, but only if /run is a tmpfs. Where it is not, every
    call would probe the kernel anew (25 to 90 ms): there, CRIU sees a folder of its own as /run. `private_root`, if
    any, is reached through a link, so that a command line that is matched by the name of the home finds no CRIU.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    script = folder / "suspend.sh"
    shutil.copyfile(SUSPEND_SCRIPT, script)
    script.chmod(0o700)
    if private_root is not None:
        prefix = _through_link(prefix, private_root, folder / "criu")
    if not is_tmpfs(Path("/run")) and is_tmpfs(folder):
        prefix = (*_own_run(folder / "run"), *prefix)
    return Criu(prefix, script)


def _through_link(prefix: tuple[str, ...], root: Path, link: Path) -> tuple[str, ...]:
    fresh = link.with_name(f"{link.name}.new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    fresh.symlink_to(root)
    fresh.replace(link)
    return tuple(word.replace(str(root), str(link)) for word in prefix)


def _own_run(folder: Path) -> tuple[str, ...]:
    folder.mkdir(mode=0o700, exist_ok=True)
    bind = 'mount --bind "$0" /run && exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", bind, str(folder))


def warm(criu: Criu, images: Path) -> None:
    """Lets CRIU learn the kernel now, so that no freeze has to wait for it. `images` is an existing scratch folder."""
    criu.cpuinfo_dump(images)


def is_tmpfs(path: Path) -> bool:
    """True if `path` lies on a tmpfs, by the mount that covers it last."""
    best, kind = Path("/"), ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        mount = cgroups.mount_path(fields[4])
        if path.resolve().is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, fields[fields.index("-") + 1]
    return kind == "tmpfs"
