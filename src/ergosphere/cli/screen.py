"""Where words go: answers to standard output, everything said beside them to standard error.

Colour, width and progress depend on what each of the two is; nothing here knows a job or a server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ergosphere.system import Clock

WIDE: Final = 1000  # columns of `-o wide`: nothing is left out
_PLAIN_WIDTH: Final = 200  # columns of a pipe or a file: hardly anything is squeezed there
_QUIET_S: Final = 2.0  # a work that is done by then says nothing where there is no terminal
_PLAIN_EVERY_S: Final = 5.0  # between two of its lines


def show(what: RenderableType) -> None:
    """Print a table or text as the command's answer."""
    _console().print(what)


def show_json(value: Any) -> None:
    """Print an answer for machines: indented JSON, keys in their own order. A terminal gets no character that it could
    obey: a job chose some of them.
    """
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=sys.stdout.isatty()) + "\n")
    sys.stdout.flush()


def show_line(text: str) -> None:
    """Print one line as it is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_yaml(value: Any) -> None:
    """Print an answer as YAML, for a terminal as `show_json` does."""
    import yaml

    sys.stdout.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=not sys.stdout.isatty()))
    sys.stdout.flush()


def say(text: str) -> None:
    """One line about what has been done, on standard error."""
    _aside(text, "")


def note(text: str) -> None:
    """One line that the user should know, on standard error."""
    _aside(f"note: {text}", "\x1b[33m")


def hint(text: str) -> None:
    """What to do next: the dim last line of a command, on standard error."""
    _aside(text, "\x1b[2m")


def width() -> int:
    """Columns that an answer may use."""
    return _console().width


def can_ask() -> bool:
    """Somebody sits there who can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _aside(text: str, style: str) -> None:
    sys.stdout.flush()
    coloured = bool(style) and sys.stderr.isatty()
    sys.stderr.write(f"{style}{text}\x1b[0m\n" if coloured else f"{text}\n")
    sys.stderr.flush()


def _console() -> Console:
    from rich.console import Console

    on_screen = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not on_screen, width=None if on_screen else _plain_width())


def _plain_width() -> int:
    from ergosphere.system import environment

    columns = environment().get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) > 0 else _PLAIN_WIDTH


class Progress(Protocol):
    """How far a long work is; `done` of `total` in any unit. A total of 0 is not known yet."""

    def __call__(self, done: int, total: int, what: str = "") -> None: ...


@contextmanager
def progress(title: str, clock: Clock) -> Iterator[Progress]:
    """A bar on standard error while the block runs; where that is no terminal, a line now and then if it takes long."""
    if not sys.stderr.isatty():
        yield _plain_progress(title, clock)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[what]}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        task = bar.add_task(title, total=None, what="")

        def advance(done: int, total: int, what: str = "") -> None:
            bar.update(task, completed=done, total=total or None, what=what)

        yield advance


def _plain_progress(title: str, clock: Clock) -> Progress:
    next_s = clock.monotonic() + _QUIET_S

    def advance(done: int, total: int, what: str = "") -> None:
        nonlocal next_s
        if clock.monotonic() >= next_s:
            next_s = clock.monotonic() + _PLAIN_EVERY_S
            say(f"{title}: {what or f'{done} of {total}'}")

    return advance
