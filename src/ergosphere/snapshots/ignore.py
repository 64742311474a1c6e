"""What of a submitter's directory is copied, what is seen read-only from its place, and what is left out.

`.gitignore` files (nested ones, those above the directory up to its repository's root, and
`.git/info/exclude`) and `.ergoignore` files, which have the last word: `!path` there brings a path back.
Copies nothing itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from ergosphere.snapshots.errors import Unreadable

IGNORE_FILES: Final = (".gitignore", ".ergoignore")  # the later one wins
BOUND_MAX: Final = 64  # each is a mount in every rank
REPOSITORIES: Final = frozenset({".git", ".hg", ".svn", ".jj"})
INSTALLED: Final = frozenset({"node_modules", "site-packages"})
ENVIRONMENT_MARKER: Final = "pyvenv.cfg"  # what makes a directory a virtual environment
LEFT_OUT: Final = frozenset(
    {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".DS_Store"}
)  # made again by whoever needs it, and written to by a job: never bound
LEFT_OUT_SUFFIXES: Final = (".pyc", ".pyo", ".swp")
NAMED_MAX: Final = 5  # paths named in a note


@dataclass(frozen=True, slots=True)
class Ignore:
    """The verdict on one directory, taken when it was read."""

    bound: tuple[str, ...]  # topmost ignored paths, to bind read-only from the original
    left_out: frozenset[str]
    notes: tuple[str, ...]

    def excluded(self, path: str, is_dir: bool) -> bool:
        """Whether a scan leaves this path (and all below it) out."""
        return path in self.left_out


@dataclass(slots=True)
class _Reader:
    root: Path
    rules: list[tuple[str, GitIgnoreSpec]] = field(default_factory=list)  # (folder, its rules), outermost first
    bound: list[tuple[str, bool]] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)

    def visit(self, folder: str) -> None:
        here = self.root / folder
        depth = len(self.rules)
        names = _names(here)  # before its rules: of a folder that cannot be read, the folder is named
        if spec := _spec(here, IGNORE_FILES):
            self.rules.append((folder, spec))
        for name, is_dir in names:
            path = f"{folder}/{name}" if folder else name
            if self._ignored(path, name, is_dir):
                continue
            if is_dir:
                self.visit(path)
        del self.rules[depth:]

    def _ignored(self, path: str, name: str, is_dir: bool) -> bool:
        verdict = self._ruled(path, is_dir)
        if name in LEFT_OUT or name.endswith(LEFT_OUT_SUFFIXES):
            if verdict is not False:
                self.left_out.add(path)
                return True
            return False
        if verdict is None:
            verdict = is_dir and self._is_foreign(path, name)
        if verdict:
            self.left_out.add(path)
            self.bound.append((path, is_dir))
        return verdict

    def _is_foreign(self, path: str, name: str) -> bool:
        return name in REPOSITORIES or name in INSTALLED or _is_there(self.root / path / ENVIRONMENT_MARKER)

    def _ruled(self, path: str, is_dir: bool) -> bool | None:
        """What the innermost rule that speaks of this path says; None when no rule does."""
        for folder, spec in reversed(self.rules):
            below = _below(path, folder)
            include = spec.check_file(below + "/" if is_dir else below).include
            if include is not None:
                return include
        return None


def read(root: Path) -> Ignore:
    """Walk the directory's rules. Errors: Unreadable."""
    reader = _Reader(root)
    reader.rules.extend(_outer_rules(root))
    reader.visit("")
    chosen = sorted(reader.bound, key=lambda pair: (not pair[1], pair[0].count("/"), pair[0]))
    bound = [path for path, _ in chosen[:BOUND_MAX]]
    return Ignore(tuple(sorted(bound)), frozenset(reader.left_out), _notes([p for p, _ in chosen[BOUND_MAX:]]))


def _notes(unseen: list[str]) -> tuple[str, ...]:
    if not unseen:
        return ()
    named = ", ".join(unseen[:NAMED_MAX])
    return (
        f"{len(unseen)} more ignored paths are not visible to the job, at most {BOUND_MAX} can be ({named}, …);"
        " to copy one, write !path in .ergoignore",
    )


def _below(path: str, folder: str) -> str:
    """`path` (relative to the root) as the rules of `folder` see it; folders above the root begin with '^'."""
    if folder.startswith("^"):
        return folder[1:] + path
    return path[len(folder) + 1 :] if folder else path


def _outer_rules(root: Path) -> list[tuple[str, GitIgnoreSpec]]:
    """Rules of the repository the directory lies in: a job started in a sub-directory obeys them too."""
    above = [root, *root.parents]
    top = next((index for index, folder in enumerate(above) if _is_there(folder / ".git")), None)
    if top is None:
        return []
    found = []
    for index in range(top, -1, -1):
        folder = above[index]
        prefix = "^" + "".join(f"{above[i].name}/" for i in range(index - 1, -1, -1))
        names = [*((".git/info/exclude",) if index == top else ()), *(IGNORE_FILES if index else ())]
        if spec := _spec(folder, names):
            found.append((prefix, spec))
    return found


def _is_there(path: Path) -> bool:
    """False also where nobody lets us look: a folder that must be read is refused when it is."""
    try:
        return path.exists()
    except OSError:
        return False


def _spec(folder: Path, names: list[str] | tuple[str, ...]) -> GitIgnoreSpec | None:
    lines: list[str] = []
    for name in names:
        try:
            text = (folder / name).read_bytes().decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            raise Unreadable(f"{folder / name} cannot be read: {error.strerror}", "make it readable") from error
        lines.extend(text.splitlines())
    return GitIgnoreSpec.from_lines(lines) if lines else None


def _names(folder: Path) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as items:
            return sorted((item.name, item.is_dir(follow_symlinks=False)) for item in items)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unreadable(
            f"{folder} cannot be read: {error.strerror}", "make it readable, or exclude it in .ergoignore"
        ) from error
