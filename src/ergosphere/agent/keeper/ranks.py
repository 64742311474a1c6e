"""What the keeper knows of its ranks, and the file that says the same to whoever comes later."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from . import freezers


class Rank:
    """One rank: its PID 1 as the host numbers it, its freezer group, and how it ended once it has."""

    def __init__(self, rank: int, pid: int, cgroup: str, status: str) -> None:
        self.rank, self.pid, self.cgroup, self.status = rank, pid, cgroup, status
        self.wait_status: int | None = None
        self.exec_errno = 0
        self.exited_at_s: float | None = None
        self.asked = False

    @property
    def alive(self) -> bool:
        """False once it was reaped."""
        return self.wait_status is None

    @property
    def group(self) -> Any:
        """Its freezer."""
        return freezers.of_path(Path(self.cgroup))

    def ended(self, wait_status: int) -> None:
        """Its PID 1 was reaped. What init wrote about the main child counts for more than how PID 1 itself ended."""
        self.exited_at_s = time.time()
        self.wait_status = wait_status
        words = _last_words(self.status)
        if words[:1] == ["exec"] and len(words) == 2:
            self.exec_errno = int(words[1])
        elif len(words) == 1 and words[0].isdigit():
            self.wait_status = int(words[0])

    def as_json(self, suspended: bool) -> dict[str, Any]:
        """For the state file and for `state`."""
        state = "exited" if not self.alive else "suspended" if suspended else "running"
        return {
            "rank": self.rank,
            "pid": self.pid,
            "state": state,
            "wait_status": self.wait_status,
            "exec_errno": self.exec_errno,
            "exited_at_s": self.exited_at_s,
            "asked": self.asked,
        }


def _last_words(status: str) -> list[str]:
    try:
        lines = Path(status).read_text().splitlines()
    except OSError:
        return []
    return lines[-1].split() if lines else []


def write_atomically(path: str, content: dict[str, Any]) -> None:
    """A reader sees the old file or the new one."""
    beside = f"{path}.new"
    with open(beside, "w", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)) as file:
        json.dump(content, file)
    os.replace(beside, path)
