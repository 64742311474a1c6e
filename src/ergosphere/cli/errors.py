"""How the command line says no: one exception, one table of exit codes, one way to print it.

Nothing here talks to the server or draws a table.
"""

from __future__ import annotations

import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """What `ergo` returns. `ergo run` returns the job's own exit code instead once the job was submitted: RESULTS only
    in place of a 0.
    """

    OK = 0
    FAILED = 1  # the command could not do its work; `run`: the job was lost or cancelled
    USAGE = 2  # unknown flag, unknown YAML key, a value that cannot be meant
    UNKNOWN = 3  # no such job, node, rank or file
    UNREACHABLE = 4  # no server, or it does not answer: `ergo up`
    DENIED = 5  # the token is missing or wrong
    REFUSED = 6  # the server understood and said no: too many ranks, too big, wrong phase
    RESULTS = 7  # `run`: the job succeeded, and its results did not come home
    UNDISTURBED = 8  # `verify`: identical, but no blow was dealt, so nothing is proved
    OURS = 70  # ergo itself failed in a way that nobody foresaw: a bug
    NOT_EXECUTABLE = 126  # as in a shell: the job's command is there but cannot be executed
    NOT_FOUND = 127  # as in a shell: the job's command is not there
    INTERRUPTED = 130  # Ctrl-C; `run`: detached, the job goes on


class CliError(Exception):
    """A no with its cause and its remedy. `main` is the one door where it is caught."""

    def __init__(self, cause: str, remedy: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy
        self.code = code


def print_error(cause: str, remedy: str = "") -> None:
    """Write `error: cause` and `remedy: …` to standard error; red and dim only where it is a terminal."""
    red, dim, plain = ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "", "")
    text = f"{red}error:{plain} {cause}\n"
    if remedy:
        text += f"{dim}remedy:{plain} {remedy}\n"
    sys.stderr.write(text)
    sys.stderr.flush()
