"""What `ergo verify` answers: the table, what was done to the job, and the first difference. Values in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ergosphere.cli.columns import Cell, Column, Row, table
from ergosphere.cli.safe import safe_line
from ergosphere.cli.verifying.compare import EXIT, Comparison, Difference, Finding, Side
from ergosphere.cli.verifying.course import Course
from ergosphere.cli.words import bytes_text, plural, span_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from ergosphere.cli.facts import Fact

DIGEST_SHOWN: Final = 16  # hex digits
LONG_ENOUGH_S: Final = 20.0  # that a program runs by itself: a blow is dealt and over within some seconds
ROWS_MAX: Final = 40  # of a table; those that differ are always shown
_COLUMNS: Final = (
    Column("WHAT", floor=16),
    Column("BYTES", right=True),
    Column("UNDISTURBED"),
    Column("DISTURBED"),
    Column("VERDICT"),
)


class Judgement(StrEnum):
    """What a verification has shown."""

    IDENTICAL = "identical"
    DIFFERS = "differs"
    NOT_DISTURBED = "not disturbed"  # identical, and nothing is proved by it: no blow was dealt


@dataclass(frozen=True, slots=True)
class Verdict:
    """`against`: what identical is measured against, in words; `again`: two undisturbed runs, where asked."""

    command: str
    seed: int
    against: str
    plain_s: float
    course: Course
    comparison: Comparison
    masks: tuple[str, ...] = ()
    again: Comparison | None = None
    without: Comparison | None = None  # without ergo against under ergo, both undisturbed, where sums differ

    @property
    def judgement(self) -> Judgement:
        """Identical only where the job was disturbed as asked, or nothing was asked for (`--events 0`)."""
        if not self.comparison.identical:
            return Judgement.DIFFERS
        return Judgement.IDENTICAL if self.course.disturbed else Judgement.NOT_DISTURBED


def value_of(verdict: Verdict) -> dict[str, Any]:
    """For machines."""
    job = verdict.course.job
    return {
        "verdict": verdict.judgement,
        "identical": verdict.judgement is Judgement.IDENTICAL,
        "seed": verdict.seed,
        "against": verdict.against,
        "masks": list(verdict.masks),
        "deterministic": None if verdict.again is None else verdict.again.identical,
        "identical_without_ergo": None if verdict.without is None else verdict.without.identical,
        "findings": [_finding_value(finding) for finding in verdict.comparison.findings],
        "untouched": verdict.comparison.untouched,
        "blows": [
            {"kind": s.blow.kind, "at": s.blow.at, "done": s.done, "text": s.text} for s in verdict.course.struck
        ],
        "blows_too_late": len(verdict.course.unstruck),
        "never_dealt": list(verdict.course.never_dealt),
        "moves": job.moves,
        "recoveries": job.recoveries,
        "resizes": job.resizes,
        "paused_s": job.paused_total_s,
        "lost_lines": job.lost_lines,
        "undisturbed_s": verdict.plain_s,
        "disturbed_s": verdict.course.outcome.span_s,
    }


def _finding_value(finding: Finding) -> dict[str, Any]:
    sides = {
        name: None if side is None else side.digest for name, side in (("left", finding.left), ("right", finding.right))
    }
    where = finding.difference
    first = None if where is None else {"line": where.line, "left": _shown(where.left), "right": _shown(where.right)}
    return {
        "what": finding.what,
        **sides,
        "same": finding.same,
        "masked": finding.masked,
        "first_difference": first,
    }


def view(verdict: Verdict, width: int) -> Group:
    """For people."""
    from rich.console import Group
    from rich.text import Text

    first = verdict.comparison.first
    return Group(
        findings_view(verdict.comparison, width),
        Text(),
        *_facts(verdict),
        *([] if first is None else [difference_view(first)]),
        Text(),
        _last_line(verdict),
    )


def findings_view(comparison: Comparison, width: int) -> Text:
    """One row for each thing compared; of very many, those that differ and the first others."""
    from rich.text import Text

    findings = _chosen(comparison.findings)
    lines = [table(_COLUMNS, [_row(finding) for finding in findings], width)]
    hidden = len(comparison.findings) - len(findings)
    if hidden:
        lines.append(Text(f"and {plural(hidden, 'more file')}, identical", "dim"))
    if comparison.untouched:
        lines.append(Text(f"{plural(comparison.untouched, 'submitted file')} untouched by both", "dim"))
    return Text("\n").join(lines)


def _chosen(findings: Sequence[Finding]) -> list[Finding]:
    same_shown = {id(finding) for finding in [f for f in findings if f.same][:ROWS_MAX]}
    return [finding for finding in findings if not finding.same or id(finding) in same_shown]


def _row(finding: Finding) -> Row:
    sides = (finding.left, finding.right)
    sizes = list(dict.fromkeys(str(side.size) for side in sides if side is not None and finding.what != EXIT))
    word, style = ("identical", "green") if finding.same else ("differs", "bold red")
    if None in sides:
        word = "only undisturbed" if finding.right is None else "only disturbed"
    if finding.masked:
        word += f" ({finding.masked} masked)"
    cells = (
        Cell(safe_line(finding.what)),
        Cell(" / ".join(sizes)),
        *(Cell(_digest(side), "dim" if finding.same else style) for side in sides),
        Cell(word, style),
    )
    return Row(cells)


def _digest(side: Side | None) -> str:
    return "-" if side is None else side.digest[:DIGEST_SHOWN]


def _facts(verdict: Verdict) -> list[Fact]:
    from ergosphere.cli.facts import Fact

    job, course = verdict.course.job, verdict.course
    lines = [
        Fact("seed", f"{verdict.seed}"),
        Fact("against", verdict.against),
        Fact("blows", _blows(course), "yellow" if course.never_dealt else ""),
        Fact("job", f"{plural(job.moves, 'move')}, {plural(job.recoveries, 'recovery', 'recoveries')}, "
             f"{span_text(job.paused_total_s)} paused, {plural(job.lost_lines, 'line')} redone"),
        Fact("time", f"{span_text(verdict.plain_s)} undisturbed, {span_text(course.outcome.span_s)} disturbed"),
    ]  # fmt: skip
    if verdict.without is not None:
        lines.append(Fact("plain", _without_text(verdict.without)))
    lines += [Fact("masked", safe_line(mask), "yellow") for mask in verdict.masks]
    if verdict.again is not None:
        style = "" if verdict.again.identical else "bold yellow"
        lines.append(Fact("twice", _again_text(verdict.again), style))
    return lines


def _without_text(without: Comparison) -> str:
    if without.identical:
        return "without ergo it gives the very same bytes"
    return "without ergo it differs: there sums are folded in the ring's order, here in rank order on any devices"


def _blows(course: Course) -> str:
    done, late = sum(struck.done for struck in course.struck), len(course.unstruck)
    parts = [f"{done} dealt"]
    parts += [f"{len(course.struck) - done} could not be"] * (done < len(course.struck))
    parts += [f"{late} came too late: the job had ended (let it run longer)"] * bool(late)
    never = [f"never dealt: {', '.join(course.never_dealt)}"] * bool(course.never_dealt)
    return "; ".join([", ".join(parts), *never])


def _again_text(again: Comparison) -> str:
    first = again.first
    if first is None:
        return "two undisturbed runs are identical: the program is deterministic"
    where = f", first in line {first.difference.line}" if first.difference else ""
    return f"two undisturbed runs differ ({safe_line(first.what)}{where}): the program is not deterministic"


def difference_view(finding: Finding) -> Text:
    """Where the two versions first differ, both safely shown."""
    from rich.text import Text

    if finding.difference is None:
        return Text(f"\nfirst difference: {safe_line(finding.what)}: {_structure(finding)}", "bold red")
    where: Difference = finding.difference
    return Text.assemble(
        (f"\nfirst difference: {safe_line(finding.what)}, line {where.line}, byte {where.column}\n", "bold red"),
        ("  undisturbed  ", "dim"), _shown(where.left) + "\n",
        ("  disturbed    ", "dim"), _shown(where.right),
    )  # fmt: skip


def _structure(finding: Finding) -> str:
    if finding.right is None:
        return "it is missing after the disturbed run"
    if finding.left is None:
        return "only the disturbed run has it"
    return "mode or kind of the file differ"


def _shown(data: bytes) -> str:
    return safe_line(data.decode("utf-8", "surrogateescape").replace("\t", "\\t")) or "(nothing)"


def _last_line(verdict: Verdict) -> Text:
    from rich.text import Text

    things = plural(len(verdict.comparison.findings), "thing")
    match verdict.judgement:
        case Judgement.IDENTICAL:
            return Text(f"✓ identical{_but_for(verdict)}: {things}, {_compared(verdict)}, every byte", "bold green")
        case Judgement.NOT_DISTURBED:
            why = f"{_what_went_wrong(verdict.course)}; identical{_but_for(verdict)} says nothing then"
            return Text(f"· not disturbed: {why}\n  remedy: {_remedy(verdict.course)}", "bold yellow")
        case Judgement.DIFFERS:
            differing = sum(not finding.same for finding in verdict.comparison.findings)
            return Text(f"✗ {differing} of {things} differ", "bold red")


def _but_for(verdict: Verdict) -> str:
    return " but for what was masked" if any(finding.masked for finding in verdict.comparison.findings) else ""


def _compared(verdict: Verdict) -> str:
    return bytes_text(sum(finding.left.size for finding in verdict.comparison.findings if finding.left is not None))


def _what_went_wrong(course: Course) -> str:
    blows = plural(len(course.struck) + len(course.unstruck), "blow")
    if course.unstruck:
        return f"the job had ended after {span_text(course.outcome.span_s)}, before any of {blows} could be dealt"
    return f"none of {blows} could be dealt"


def _remedy(course: Course) -> str:
    if course.unstruck:
        return f"a longer program (more steps, more data): {LONG_ENOUGH_S:.0f} s are enough; `--events 0` only compares"
    return f"see to what stood against the last one: {safe_line(course.struck[-1].text)}"
