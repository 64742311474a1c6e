"""Which folders cannot be a job's working directory. Real paths in, a refusal out; nothing is looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Made for each rank, or the kernel's own: never a rank's working directory, and never opened by --mount.
OWN: Final = ("/proc", "/sys", "/dev", "/run", "/tmp", "/dev/shm", "/dev/pts", "/var/run")
_KERNELS: Final = ("/proc", "/sys", "/run", "/dev/pts")
REMEDY: Final = "start the job from the folder that holds its program"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A working directory that cannot be: cause first, remedy second."""

    error: str
    remedy: str = REMEDY


def refusal(workdir: str, home: str | None) -> Refusal | None:
    """Why no job can work in a copy of `workdir`; None when one can.

    Both are absolute, with every link resolved; `home` is the job's HOME, where it has one.
    """
    if workdir == "/":
        return Refusal("the working directory is /, and the whole machine cannot be copied")
    if home is not None and within(home, workdir):
        return Refusal(f"the working directory {workdir} is or holds your home directory")
    if workdir in OWN or below_any(workdir, _KERNELS):
        return Refusal(f"the working directory {workdir} is made anew for each rank, so it cannot be copied")
    return None


def within(path: str, folder: str) -> bool:
    """`path` is the folder, or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def below_any(path: str, folders: Iterable[str]) -> bool:
    """`path` lies in one of the folders, and is none of them."""
    return any(path != folder and within(path, folder) for folder in folders)
