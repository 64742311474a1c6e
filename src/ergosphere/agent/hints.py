"""What a failed job's last words say that its owner can do something about. Reads the end of logs, nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TAIL_BYTES: Final = 16 * 1024
READ_ONLY: Final = os.strerror(30)  # EROFS, as every program's C library says it
QUOTED: Final = re.compile(r"""['"`‘“](/[^'"`’”]+)['"`’”]""")
BARE: Final = re.compile(r"(?:^|[\s:(=])(/[^\s'\"`:,)]+)")

TERMINAL: Final = ("/dev/tty", os.strerror(25))  # ENOTTY
NO_TERMINAL: Final = (
    "it asked for a terminal, and jobs have none: give what it asks for as arguments, variables or files"
)
INPUT_ENDED: Final = "EOF when reading a line"  # of Python's input(); other EOFErrors are about files and connections
NO_INPUT: Final = (
    "it read its input, and a job's input is empty: give what it asks for as arguments, variables or files"
)


def hint_of(logs: Iterable[Path]) -> str | None:
    """What would have helped a job with what it complained of last; None where we know nothing."""
    for log in logs:
        for line in reversed(_tail(log).splitlines()):
            if READ_ONLY in line:
                return _read_only(line)
            if any(word in line for word in TERMINAL):
                return NO_TERMINAL
            if INPUT_ENDED in line:
                return NO_INPUT
    return None


def _read_only(line: str) -> str:
    """The flag that would have let it write where it tried to."""
    before = line[: line.index(READ_ONLY)]  # a shell's complaint begins with the shell's own path
    named = QUOTED.findall(line) or BARE.findall(before) or BARE.findall(line)
    if not named:
        return "it tried to write to a path that is read-only in jobs: open it with --mount PATH:rw"
    path = named[-1]
    return f"it tried to write to {path}, which is read-only in jobs: open it with --mount {_existing(path)}:rw"


def _existing(path: str) -> str:
    """What can be named in --mount: the folder that a new file would come to lie in."""
    here = Path(path)
    if here.is_file():
        return path
    while not here.is_dir():
        here = here.parent
    return str(here)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
