"""What answers about snapshots look like. Values of `wire` in, text for people out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from ergosphere.cli.columns import Cell, Column, Row, table
from ergosphere.cli.facts import Fact
from ergosphere.cli.safe import safe_line
from ergosphere.cli.words import bytes_text, plural, span_text
from ergosphere.core.model import ENDED
from ergosphere.wire.jobs import JobInfo, SnapshotInfo
from ergosphere.wire.paths import from_text
from ergosphere.wire.snapshots import FsckReport, GcReport, KindBytes, SnapshotDetail, SnapshotDiff

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

SHOWN_MAX: Final = 40  # files of a difference, findings of a check

_LIST: Final = (
    Column("JOB", floor=10),
    Column("#", right=True),
    Column("ID"),
    Column("NAME", 1, floor=8),
    Column("TAKEN", right=True),
    Column("WHY", 3),
    Column("BYTES", 2, right=True),
    Column("STOOD", 4, right=True),
    Column("DURABILITY"),
)


def list_view(found: Sequence[SnapshotInfo], names: Mapping[str, str], now_s: float, width: int) -> Text:
    """One line a snapshot."""
    return table(_LIST, [_row(one, names, now_s) for one in found], width)


def none_listed(job: JobInfo | None) -> tuple[str, str]:
    """What is said of a job without a snapshot (None: of all jobs), and what can be done."""
    if job is None:
        return "no snapshots", "take one: ergo snapshot create JOB"
    if job.phase in ENDED:
        said = f"no snapshots: {job.name} has ended, and only named ones outlive their job"
        return said, f"what it left: ergo fetch {job.id}"
    return "no snapshots", f"take one: ergo snapshot create {job.id}"


def _row(one: SnapshotInfo, names: Mapping[str, str], now_s: float) -> Row:
    state, style = durability(one)
    cells = (
        Cell(safe_line(names.get(one.job, one.job)), "bold"),
        Cell(str(one.number)),
        Cell(one.id),
        Cell(safe_line(one.name) or "-", "cyan" if one.name else "dim"),
        Cell(f"{span_text(now_s - one.taken_s)} ago"),
        Cell(one.why),
        Cell(bytes_text(one.bytes)),
        Cell(span_text(one.stopped_s)),
        Cell(state, style),
    )
    return Row(cells, safe_line(one.trouble))


def durability(one: SnapshotInfo) -> tuple[str, str]:
    """Where it is safe, and in what colour that is said."""
    if one.damaged:
        return "damaged", "bold red"
    if one.out_of_reach:
        return f"gone with {', '.join(one.nodes)}", "red"
    if one.durability == "remote":
        return ("damaged in the store", "red") if one.trouble else ("remote", "green")
    share = f", {one.uploaded:.0%} uploaded" if one.uploaded is not None else ""
    return f"node{share}", "yellow"


def detail_view(found: SnapshotDetail, now_s: float) -> Group:
    """Everything about one snapshot."""
    from rich.console import Group
    from rich.text import Text

    state, style = durability(found)
    name = f"  {safe_line(found.name)}" if found.name else ""
    lines: list[RenderableType] = [
        Text.assemble((f"{safe_line(found.job_name)}@{found.id}", "bold"), (name, "cyan"), "  ", (state, style))
    ]
    lines += [Fact("store", _trouble(found), "yellow")] if found.trouble else []
    lines.append(Fact("taken", f"{span_text(now_s - found.taken_s)} ago ({found.why}), #{found.number}"))
    lines.append(Fact("stood", f"the job stood still for {span_text(found.stopped_s)}"))
    lines += [Fact("copy of", found.origin)] if found.origin else []
    lines += [Fact(*_kind(kind)) for kind in found.kinds]
    lines += [Fact("all", _all(found))] if found.kinds else []
    lines += [Fact("needs", needs) for needs in _needs(found)]
    for fit in found.fits:
        word = {True: "can thaw it", False: f"cannot: {fit.cause}", None: "has not said yet"}[fit.fits]
        lines.append(Fact(fit.node, safe_line(word), "red" if fit.fits is False else ""))
    lines += [Fact("note", safe_line(found.note), "yellow")] if found.note else []
    return Group(*lines)


def _trouble(found: SnapshotDetail) -> str:
    if found.durability == "remote":
        return f"{safe_line(found.trouble)}; a node that still has its images can thaw it all the same"
    return f"not reached yet: {safe_line(found.trouble)}"


def _kind(kind: KindBytes) -> tuple[str, str]:
    filled = f", {bytes_text(kind.bytes - kind.filled)} of them zeros" if kind.filled is not None else ""
    return kind.kind, f"{bytes_text(kind.bytes)} in {plural(kind.count, 'stream')}{filled}"


def _all(found: SnapshotDetail) -> str:
    whole = bytes_text(sum(kind.bytes for kind in found.kinds))
    if found.stored is None or found.alone is None:
        return whole
    return f"{whole}, {bytes_text(found.stored)} in the store, of which {bytes_text(found.alone)} are its alone"


def _needs(found: SnapshotDetail) -> Iterable[str]:
    if found.needs is not None:
        needs = found.needs
        if not (needs.criu or needs.kernel):
            yield "nothing: it holds files alone, and the command is started again among them"
            return
        yield f"CRIU {needs.criu} and Linux {needs.kernel} or newer, {needs.cpu or 'a CPU like its own'}"
        yield f"{plural(needs.files, 'file')} of the node as they were (build id, or size and time)"


def diff_view(found: SnapshotDiff) -> Group:
    """What changed from a to b."""
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [Text(f"{found.a} → {found.b}", "bold")]
    if found.memory_bytes:
        share = found.memory_shared / found.memory_bytes
        lines.append(Fact("memory", f"{share:.1%} of {bytes_text(found.memory_bytes)} was there before"))
    marks = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
    for file in found.files[:SHOWN_MAX]:
        mark, style = marks[file.change]
        lines.append(Text.assemble((f"{mark} ", style), safe_line(from_text(file.path))))
    lines += [Text(f"… and {len(found.files) - SHOWN_MAX} more files", "dim")] if len(found.files) > SHOWN_MAX else []
    lines += [Text("no file differs", "dim")] if not found.files else []
    logs = ", ".join(f"{name} {_signed(more)}" for name, more in found.logs.items() if more)
    lines += [Fact("logs", logs)] if logs else []
    return Group(*lines)


def _signed(count: int) -> str:
    return f"{'+' if count >= 0 else '-'}{bytes_text(abs(count))}"


def gc_view(report: GcReport) -> Group:
    """What went, or would go."""
    from rich.console import Group
    from rich.text import Text

    verb = "would go" if report.dry_run else "went"
    head = f"{plural(len(report.snapshots), 'snapshot')} and {plural(report.objects, 'object')} {verb}"
    lines: list[RenderableType] = [Text(f"{head}: {bytes_text(report.bytes)}")]
    lines += [Text(f"  snapshot {name}", "dim") for name in report.snapshots[:SHOWN_MAX]]
    rest = len(report.snapshots) - SHOWN_MAX
    lines += [Text(f"… and {rest} more snapshots", "dim")] if rest > 0 else []
    later = bytes_text(report.later_bytes)
    lines += [Fact("later", f"{later} nothing needs any more go after the grace period")] if report.later_bytes else []
    freed = f"{bytes_text(report.repacked_bytes)} beside what is still needed go once that is copied"
    lines += [Fact("copying", freed)] if report.repacked_bytes else []
    lines += [Fact("note", safe_line(text), "yellow") for text in report.notes]
    return Group(*lines)


def fsck_view(report: FsckReport) -> Group:
    """What is wrong, or that nothing is."""
    from rich.console import Group
    from rich.text import Text

    size = f"{plural(report.snapshots, 'snapshot')}, {plural(report.packs, 'pack')}, {plural(report.chunks, 'chunk')}"
    head = Text("the store is whole", "green") if report.ok else Text("the store is not whole", "bold red")
    lines: list[RenderableType] = [Text.assemble(head, f": {size}")]
    for remedy, findings in groupby(report.findings[:SHOWN_MAX], key=lambda finding: finding.remedy):
        for finding in findings:
            lines.append(Fact(finding.kind, safe_line(finding.what), "red" if finding.snapshots else "yellow"))
        lines += [Fact("", safe_line(remedy))] if remedy else []
    rest = len(report.findings) - SHOWN_MAX
    lines += [Text(f"… and {rest} more findings", "dim")] if rest > 0 else []
    return Group(*lines)
