"""What is seen while it plays: on a terminal a table that lives below the blows dealt so far, elsewhere plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from demo.cast import Role
from ergosphere.cli.verifying.blows import Kind
from ergosphere.cli.verifying.telling import last_line
from ergosphere.cli.views import PHASE_STYLES
from ergosphere.cli.words import span_text
from ergosphere.core.model import Phase
from ergosphere.system import Clock

PLAIN_WIDTH: Final = 130  # columns where there is no terminal
PLAIN_EVERY_S: Final = 5.0  # between two plain lines about how far the jobs are
BAR: Final = 14  # characters
REFRESH_HZ: Final = 8


@dataclass(frozen=True, slots=True)
class Mark:
    """A sign in front of a line, and its colour."""

    sign: str
    style: str


WELL: Final = Mark("✓", "bold green")
STAR: Final = Mark("★", "bold magenta")
MISSED: Final = Mark("·", "dim")
OF_KIND: Final[Mapping[Kind, Mark]] = {
    Kind.PAUSE: Mark("‖", "bold blue"),
    Kind.MOVE: Mark("→", "bold cyan"),
    Kind.SNAPSHOT: Mark("●", "bold cyan"),
    Kind.RESIZE: Mark("⇅", "bold cyan"),
    Kind.KILL_RANK: Mark("⚡", "bold red"),
    Kind.KILL_AGENT: Mark("⚡", "bold red"),
    Kind.KILL_SERVER: Mark("⚡", "bold red"),
    Kind.LOSE_NODE: Mark("⚡", "bold red"),
}


@dataclass(slots=True)
class Line:
    """Where one job is."""

    name: str
    what: str
    phase: str = ""
    where: str = ""
    share: float | None = 0.0  # None: nobody knows yet how long it is
    said: str = ""

    def in_words(self) -> str:
        """`digits running 12%`."""
        return f"{self.name} {self.phase}" + ("" if self.share is None else f" {self.share:.0%}")


@dataclass(slots=True)
class Board:
    """Told by many threads, drawn by one."""

    console: Console
    clock: Clock
    lines: dict[str, Line] = field(default_factory=dict)
    headline: str = ""
    began_s: float = field(init=False)
    _spinner: Spinner = field(init=False)
    _said_s: float = 0.0

    def __post_init__(self) -> None:
        self.began_s = self.clock.monotonic()
        self._spinner = Spinner("dots", style="cyan")

    def act(self, headline: str, roles: tuple[Role, ...]) -> None:
        """A new act: who is on stage."""
        self.headline = headline
        self.lines = {role.name: Line(role.name, role.what) for role in roles}
        self.console.print(Text.assemble((self._stamp(), "dim"), (headline, "bold")))

    def enters(self, name: str, what: str) -> None:
        """One more on stage."""
        self.lines[name] = Line(name, what)

    def seen(self, name: str, phase: str, where: str, share: float | None, tail: bytes) -> None:
        """Where a job is now, and the end of what it has written."""
        line = self.lines[name]
        line.phase, line.where, line.share = phase, where, share
        line.said = last_line(tail) or line.said
        if not self.console.is_terminal:
            self._say_now_and_then()

    def says(self, what: RenderableType) -> None:
        """Something that stays, above what moves."""
        self.console.print(what)

    def happened(self, name: str, text: str, mark: Mark) -> None:
        """One line that stays."""
        sign = (mark.sign + " " * (3 - cell_len(mark.sign)), mark.style)
        self.console.print(Text.assemble((self._stamp(), "dim"), sign, (f"{name:<8}", "bold"), text), soft_wrap=True)

    def render(self) -> RenderableType:
        """The living part."""
        self._spinner.text = Text(self.headline, "bold")
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
        table.add_column("JOB", no_wrap=True)
        table.add_column("PHASE", no_wrap=True, min_width=9)
        table.add_column("WHERE", no_wrap=True, min_width=7)
        table.add_column("", no_wrap=True, width=BAR + 5)
        table.add_column("ITS LAST LINE", no_wrap=True, overflow="ellipsis", ratio=1)
        for line in list(self.lines.values()):
            table.add_row(
                Text(line.name, "bold"),
                Text(line.phase, _style(line.phase)),
                line.where,
                _bar(line.share),
                Text(line.said or line.what, "dim"),
            )
        return Group(Text(), self._spinner, table)

    def _say_now_and_then(self) -> None:
        if self.clock.monotonic() - self._said_s > PLAIN_EVERY_S:
            self._said_s = self.clock.monotonic()
            parts = [line.in_words() for line in list(self.lines.values())]
            self.console.print(Text.assemble((self._stamp(), "dim"), ", ".join(parts)), soft_wrap=True)

    def _stamp(self) -> str:
        return f"{span_text(self.clock.monotonic() - self.began_s):>6}  "


@contextmanager
def board(clock: Clock) -> Iterator[Board]:
    """The board, alive while the block runs."""
    console = Console(highlight=False)
    if not console.is_terminal:
        yield Board(Console(highlight=False, width=PLAIN_WIDTH), clock)
        return
    made = Board(console, clock)
    with Live(console=console, get_renderable=made.render, refresh_per_second=REFRESH_HZ, transient=True):
        yield made


def _bar(share: float | None) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    if share is None:
        grid.add_row(ProgressBar(total=None, width=BAR, pulse=True), "")
    else:
        grid.add_row(ProgressBar(1.0, share, width=BAR), f"{share:>4.0%}")
    return grid


def _style(phase: str) -> str:
    return PHASE_STYLES[Phase(phase)] if phase in set(Phase) else "dim"
