"""How it ends: for each program its result, the undisturbed one, and what it went through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.claims import missing
from demo.play import Played
from demo.premium import Urgent
from ergosphere.cli.verifying.compare import Comparison, compare_runs
from ergosphere.cli.verifying.verdict import difference_view
from ergosphere.cli.words import plural, span_text

DIGEST_SHOWN: Final = 16  # hex digits, where there is room
DIGEST_NARROW: Final = 11
WIDE: Final = 100  # columns


@dataclass(frozen=True, slots=True)
class Verdict:
    """One program judged. `heard`: the client outside got the same answers, byte by byte (True where there is none)."""

    played: Played
    comparison: Comparison
    heard: bool

    @property
    def identical(self) -> bool:
        """Output of every rank, every file, the exit code, and what a client was told."""
        return self.comparison.identical and self.heard


def judge(played: Played) -> Verdict:
    """Compare every byte of both acts."""
    comparison = compare_runs(played.plain.outcome, played.course.outcome, played.part.copy.tree)
    return Verdict(played, comparison, played.call == played.plain.call)


def unshown(verdicts: Sequence[Verdict], urgent: Urgent) -> tuple[str, ...]:
    """What of the demo's claims was not shown."""
    return missing(
        [verdict.played.part.role.name for verdict in verdicts if not verdict.identical],
        [blow.kind for verdict in verdicts for blow in verdict.played.part.role.blows],
        [struck for verdict in verdicts for struck in verdict.played.course.struck],
        urgent,
    )


def show(console: Console, verdicts: Sequence[Verdict], claims: Sequence[str], span_s: float) -> None:
    """The table and what it says; `claims` are those that were not shown."""
    console.print()
    console.print(_table(verdicts, console.width))
    console.print(Text("result: a digest over the exit code, the output of every rank and every file written", "dim"))
    console.print(Text("undisturbed: the same commands without ergo, run a moment ago on this machine", "dim"))
    exact = [verdict.played.part.role.name for verdict in verdicts if verdict.played.part.role.exact]
    if exact:
        names = ", ".join(exact)
        text = f"({names}: under ergo, left alone: sums of more than two ranks are folded in rank order there)"
        console.print(Text(text, "dim"))
    console.print(Text("steps lost: lines of output that had to be produced again after a kill -9", "dim"))
    for verdict in verdicts:
        if verdict.played.call is not None:
            _say_call(console, verdict)
    console.print(Text(f"blows dealt: {_blows(verdicts)}", "dim"))
    for verdict in verdicts:
        if verdict.comparison.first is not None:
            console.print(Text(f"\n{verdict.played.part.role.name}", "bold"), difference_view(verdict.comparison.first))
    _say_last(console, claims, span_s)


def _table(verdicts: Sequence[Verdict], width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("job", style="bold", no_wrap=True)
    for name in ("result", "undisturbed", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("moves", "resizes", "recoveries", "paused", "steps lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for verdict in verdicts:
        table.add_row(*_cells(verdict, DIGEST_SHOWN if width >= WIDE else DIGEST_NARROW))
    return table


def _cells(verdict: Verdict, digits: int) -> tuple[Text | str, ...]:
    played, job = verdict.played, verdict.played.course.job
    tree = played.part.copy.tree
    word = Text("✓ identical", "bold green") if verdict.identical else Text("✗ differs", "bold red")
    style = "green" if verdict.identical else "red"
    return (
        job.name,
        Text(played.course.outcome.digest(tree)[:digits], style),
        Text(played.plain.outcome.digest(tree)[:digits], style),
        word,
        str(job.moves),
        str(job.resizes),
        str(job.recoveries),
        span_text(job.paused_total_s),
        str(job.lost_lines),
    )


def _say_call(console: Console, verdict: Verdict) -> None:
    call, moves = verdict.played.call, verdict.played.course.job.moves
    assert call is not None, "asked for servers only"
    same = "each one as undisturbed" if verdict.heard else "but not the undisturbed ones"
    text = f"{verdict.played.part.role.name}'s client outside: {len(call.answers)} answers over one connection and "
    console.print(Text(f"{text}{plural(moves, 'move')}, {same}", "dim" if verdict.heard else "bold red"))


def _blows(verdicts: Sequence[Verdict]) -> str:
    struck = [struck for verdict in verdicts for struck in verdict.played.course.struck]
    counted = Counter(one.blow.kind for one in struck if one.done)
    missed = sum(not one.done for one in struck)
    return ", ".join(f"{count} × {kind}" for kind, count in counted.items()) + f"; {missed} could not be" * bool(missed)


def _say_last(console: Console, unshown: Sequence[str], span_s: float) -> None:
    console.print()
    for claim in unshown:
        console.print(Text(f"✗ not shown: {claim}", "bold red"))
    if not unshown:
        console.print(Text(f"✓ all identical, to the last byte ({span_text(span_s)})", "bold green"))
