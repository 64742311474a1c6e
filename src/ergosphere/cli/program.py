"""Whether a job's command can start at all, found out before anything is copied: there, executable, visible."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.looking import is_file, is_folder, is_there

_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
OWN_TO_THE_JOB: Final = ("/tmp", "/dev/shm", "/run")  # fresh and empty in every job's root
_ON_SCREEN: Final = "vi vim nvim nano emacs less more man top htop btop atop nvtop tmux screen mc ipython bpython"
_SHELLS: Final = "python bash sh zsh fish dash"
_ASKING: Final = f"{_SHELLS} node irb R julia psql mysql sqlite bc gdb pdb"
_VERSION: Final = re.compile(r"[\d.]+$")  # of python3.11, sqlite3
_FLAGS_ALONE: Final = re.compile("-[BEIOSilqsu]*|--login")
_PYTHON_ASKS: Final = re.compile("-[BEIOPSbdqsuvx]*i[BEIOPSbdiqsuvx]*")


@dataclass(frozen=True, slots=True)
class Ground:
    """What of this machine the job will see: its working directory, what is mounted, what is hidden."""

    workdir: Path
    mounts: tuple[Path, ...]
    hidden: tuple[Path, ...]

    def shows(self, path: Path) -> bool:
        """The job sees this path as the submitter does."""
        if any(path.is_relative_to(open_) for open_ in (self.workdir, *self.mounts)):
            return True
        return not any(path.is_relative_to(gone) for gone in (*map(Path, OWN_TO_THE_JOB), *self.hidden))


def check_program(command: tuple[str, ...], search: str | None, ground: Ground) -> Path:
    """Where the command's program is. Raises CliError (NOT_FOUND, NOT_EXECUTABLE) when it cannot start there."""
    found = find_program(command[0], search, ground.workdir)
    if not os.access(found, os.X_OK):
        raise CliError(
            f"{command[0]} is not executable: {found}",
            f"chmod +x {found}, or put its interpreter in front of it",
            ExitCode.NOT_EXECUTABLE,
        )
    for path in (found, found.resolve()):
        if not ground.shows(path):
            remedy = f"add --mount {path.parent}, or move it into the working directory"
            raise CliError(f"the job will not see {path}: {_why_hidden(path)}", remedy, ExitCode.NOT_FOUND)
    _check_interpreter(found)
    return found


def own_tools(command: tuple[str, ...], env: Mapping[str, str], ground: Ground) -> tuple[Path, ...]:
    """What the command needs of folders that each job has anew (a checkout in /tmp): to be shown to it, read-only.

    Its virtual environment, the folder of its program, and the folders of files among its arguments.
    """
    places = [Path(env["VIRTUAL_ENV"])] if env.get("VIRTUAL_ENV") else []
    with suppress(CliError):
        found = find_program(command[0], env.get("PATH"), ground.workdir)
        places += [_installed_in(path) for path in (found, found.resolve())]
    words = (Path(word.rpartition("=")[2]) for word in command[1:])
    places += [_installed_in(path) for path in words if path.is_absolute() and is_file(path)]
    wanted: list[Path] = []
    for place in sorted(set(places)):
        if not is_there(place) or not _in_own(place) or _is_hidden(place, ground) or ground.shows(place):
            continue
        if not any(place.is_relative_to(above) for above in wanted):
            wanted.append(place)
    return tuple(wanted)


def _installed_in(path: Path) -> Path:
    """The virtual environment that a file belongs to, else its folder; in /tmp itself, the file alone."""
    for folder in path.parents:
        if is_file(folder / "pyvenv.cfg"):
            return folder
    return path if str(path.parent) in OWN_TO_THE_JOB else path.parent


def _in_own(path: Path) -> bool:
    return any(path.is_relative_to(own) and str(path) != own for own in OWN_TO_THE_JOB)


def _is_hidden(path: Path, ground: Ground) -> bool:
    return any(path.is_relative_to(gone) for gone in ground.hidden)


def unseen_arguments(command: tuple[str, ...], ground: Ground) -> tuple[str, ...]:
    """Notes about files in the command's arguments that the job will not see."""
    notes = []
    for word in command[1:]:
        path = Path(word.rpartition("=")[2])
        if path.is_absolute() and not ground.shows(path) and is_there(path):
            notes.append(f"the job will not see {path}: {_why_hidden(path)}; open it with --mount {path}")
    return tuple(notes)


def check_no_terminal(command: tuple[str, ...]) -> None:
    """Raises CliError for programs that do nothing without a terminal: jobs have none."""
    program = _VERSION.sub("", command[0].rsplit("/", 1)[-1])
    if program in _ON_SCREEN.split():
        raise _needs_terminal(program)
    if program in _ASKING.split() and _is_alone(program, command[1:]):
        raise _needs_terminal(f"{program} without a script")
    flags = tuple(takewhile(lambda word: word.startswith("-") and word not in ("-c", "-m"), command[1:]))
    if program == "python" and any(_PYTHON_ASKS.fullmatch(flag) for flag in flags):
        raise _needs_terminal("python -i")


def _is_alone(program: str, words: tuple[str, ...]) -> bool:
    """Nothing says what it shall do, so it would ask."""
    flags = _FLAGS_ALONE if program in _SHELLS.split() else re.compile("-i?")
    return all(flags.fullmatch(word) for word in words)


def _needs_terminal(what: str) -> CliError:
    return CliError(
        f"{what} needs a terminal, and jobs have none", "run it directly, or give it a script", ExitCode.USAGE
    )


def find_program(program: str, search: str | None, workdir: Path) -> Path:
    """The file a shell in `workdir` would execute; the first that can be executed wins, as execvp has it."""
    if "/" in program:
        path = workdir / program
        if is_folder(path):
            raise CliError(f"{program} is a directory", "name a program", ExitCode.NOT_EXECUTABLE)
        if not is_there(path):
            raise CliError(
                f"command not found: {path}",
                "check the path; it is taken from the working directory",
                ExitCode.NOT_FOUND,
            )
        return path
    folders = (_DEFAULT_PATH if search is None else search).split(":")
    found = [p for folder in folders if is_file(p := workdir / folder / program)]
    if not found:
        near = _near_program(program, workdir)
        raise CliError(f"command not found: {program} is in no folder of PATH", near, ExitCode.NOT_FOUND)
    return next((p for p in found if os.access(p, os.X_OK)), found[0])


def _near_program(program: str, workdir: Path) -> str:
    if is_file(workdir / program):
        return f"did you mean ./{program}?"
    return "activate its environment before submitting, or give the whole path"


def _check_interpreter(path: Path) -> None:
    """`#!/no/such/python` makes a script 'not found' although it is there."""
    try:
        with path.open("rb") as script:
            head = script.read(256)
    except OSError:
        return  # executable but not readable: the kernel may still start it
    if not head.startswith(b"#!"):
        return
    words = head[2:].split(b"\n")[0].split()
    if not words or not is_there(Path(os.fsdecode(words[0]))):
        named = os.fsdecode(words[0]) if words else "nothing"
        raise CliError(
            f"{path} names {named} as its interpreter, which is not there", "mend its first line", ExitCode.NOT_FOUND
        )


def _why_hidden(path: Path) -> str:
    own = next((folder for folder in OWN_TO_THE_JOB if path.is_relative_to(folder)), None)
    return f"every job has a {own} of its own" if own else "the service's own folder is hidden from jobs"
