"""What is said while a verification runs: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ergosphere.cli import screen
from ergosphere.cli.safe import safe_line
from ergosphere.cli.verifying.strikes import Struck
from ergosphere.cli.words import span_text
from ergosphere.system import Clock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from ergosphere.wire.jobs import JobDetail

_BAR: Final = 20  # characters
_LINE_CHARS_MAX: Final = 60


@dataclass(slots=True)
class Telling:
    """Plain lines: what begins, what befell the job. Nothing that changes."""

    clock: Clock
    began_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self.clock.monotonic()

    def step(self, text: str) -> None:
        """A new part begins."""
        screen.say(f"{self.stamp()} {text}")

    def wrote(self, count: int) -> None:
        """How many bytes the plain run has written."""

    def progress(self, job: JobDetail, share: float, tail: bytes) -> None:
        """Where the job is."""

    def struck(self, struck: Struck) -> None:
        """What befell it."""
        screen.say(f"{self.stamp()} {'⚡' if struck.done else '·'} at {struck.blow.at:.0%}: {safe_line(struck.text)}")

    def stamp(self) -> str:
        """Since the beginning."""
        return f"[{span_text(self.clock.monotonic() - self.began_s):>5}]"


@dataclass(slots=True)
class LiveTelling(Telling):
    """On a terminal: the same lines above one that moves."""

    console: Console
    status: Status
    doing: str = ""

    def step(self, text: str) -> None:
        """A new part begins."""
        self.doing = escape(text)
        self.console.print(f"[dim]{escape(self.stamp())}[/dim] {self.doing}")
        self.status.update(self.doing)

    def wrote(self, count: int) -> None:
        """How many bytes the plain run has written."""
        self.status.update(f"{self.doing} [dim]{count} bytes of output[/dim]")

    def progress(self, job: JobDetail, share: float, tail: bytes) -> None:
        """Where the job is."""
        filled = round(share * _BAR)
        bar = f"{'━' * filled}[dim]{'━' * (_BAR - filled)}[/dim]"
        where = " ".join(sorted(set(job.nodes)))
        self.status.update(f"{bar} {share:4.0%} {job.phase} {where} [dim]{escape(last_line(tail))}[/dim]")

    def struck(self, struck: Struck) -> None:
        """What befell it."""
        mark = "[bold yellow]⚡[/]" if struck.done else "[dim]·[/]"
        words = escape(safe_line(struck.text))
        self.console.print(f"[dim]{escape(self.stamp())}[/dim] {mark} at {struck.blow.at:.0%}: {words}")


class Silence(Telling):
    """Nothing is said."""

    def step(self, text: str) -> None:
        """Not said."""

    def struck(self, struck: Struck) -> None:
        """Not said."""


@contextmanager
def telling(clock: Clock, quiet: bool) -> Iterator[Telling]:
    """Whoever tells: lively on a terminal, nobody when quiet."""
    if quiet or not sys.stderr.isatty():
        yield Silence(clock) if quiet else Telling(clock)
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("") as status:
        yield LiveTelling(clock, console, status)


def last_line(tail: bytes) -> str:
    """The last whole line of a stream, made safe and short."""
    lines = tail.rpartition(b"\n")[0].splitlines()
    return safe_line(lines[-1].decode("utf-8", "surrogateescape"))[:_LINE_CHARS_MAX] if lines else ""


def escape(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", "\\[")
