"""The mounts of this host, as /proc/self/mountinfo tells them, and which of them a job may want to see."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The kernel's own views, and mounts that appear by being looked at: none of them holds anyone's files.
_NOT_FILES: Final = frozenset(
    {"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"}
    | {"fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs"}
    | {"sysfs", "tracefs"}
)
# Where container engines mount what is theirs: it comes and goes, and is nothing a job was started for.
_ENGINES: Final = ("/var/lib/containerd/", "/var/lib/containers/", "/var/lib/docker/", "/var/lib/kubelet/")


@dataclass(frozen=True, slots=True)
class HostMount:
    """One mount point that can be reached. `real`: it holds files, rather than being a view of the kernel's."""

    target: str
    kind: str

    @property
    def real(self) -> bool:
        return self.kind not in _NOT_FILES and not self.target.startswith(_ENGINES)


def read_mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[HostMount, ...]:
    """Every mount a path leads to, parents first. Mounts that lie under another one are left out."""
    topmost: dict[str, tuple[int, str]] = {}
    for line in mountinfo.read_text(errors="surrogateescape").splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        topmost[_unescaped(fields[4])] = (int(fields[0]), kind)
    return tuple(
        HostMount(target, kind) for target, (number, kind) in sorted(topmost.items()) if _mount_at(target) == number
    )


def _unescaped(text: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    parts = text.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def _mount_at(path: str) -> int:
    """The number of the mount that `path` leads to; -1 when it leads nowhere. O_PATH triggers no automount."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(descriptor)
