"""What answers look like: the queue, one job, its history, the nodes. Values of `wire` in, text for people out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final

from ergosphere.cli import sharing_text
from ergosphere.cli.columns import Cell, Column, Row, table
from ergosphere.cli.facts import Fact
from ergosphere.cli.safe import safe_line
from ergosphere.cli.snapshot_views import durability
from ergosphere.cli.words import bytes_text, numbers, plural, span_text
from ergosphere.core.model import ENDED, Phase, Rung
from ergosphere.wire.jobs import EventInfo, Explanation, JobDetail, JobInfo, NodeInfo

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from ergosphere.wire.api import StatusInfo

PHASE_STYLES: Final[Mapping[Phase, str]] = {
    Phase.WAITING: "yellow",
    Phase.STARTING: "cyan",
    Phase.RUNNING: "green",
    Phase.RESIZING: "cyan",
    Phase.FREEZING: "cyan",
    Phase.FROZEN: "blue",
    Phase.THAWING: "cyan",
    Phase.CLEARING: "magenta",
    Phase.ENDING: "cyan",
    Phase.SUCCEEDED: "bold green",
    Phase.FAILED: "bold red",
    Phase.CANCELLED: "dim",
}

PIDS_MAX: Final = 8  # processes named in `ergo show`

_QUEUE: Final = (
    Column("ID"),
    Column("NAME", floor=16),
    Column("TIER", 5),
    Column("RANKS", 6, right=True),
    Column("DEV", 8, right=True),
    Column("PHASE"),
    Column("WHERE", 1, floor=9),
    Column("RUN", 2, right=True),
    Column("TOTAL", 4, right=True),
    Column("MOVES", 7, right=True),
    Column("RECOV", 9, right=True),
    Column("LOST", 3, right=True),
    Column("PAUSED", 10, right=True),
)


def queue_view(jobs: Sequence[JobInfo], now_s: float, width: int) -> Text:
    """The queue table; a waiting job's reason stands below it in full."""
    return table(_QUEUE, [_queue_row(job, now_s) for job in jobs], width)


def _queue_row(job: JobInfo, now_s: float) -> Row:
    quiet = "dim" if job.phase in ENDED else ""
    cells = (
        Cell(job.id, quiet),
        Cell(safe_line(job.name), quiet or "bold"),
        Cell(job.tier, quiet),
        Cell(str(job.ranks), quiet),
        Cell(str(job.devices) if job.devices else "-", quiet or ("yellow" if 0 < job.devices < job.ranks else "")),
        phase_cell(job),
        Cell(places(job), quiet),
        Cell(span_text(run_s(job, now_s)), quiet),
        Cell(span_text(total_s(job, now_s)), quiet),
        _count(job.moves, quiet),
        _count(job.recoveries, quiet),
        lost_cell(job, quiet),
        Cell(span_text(job.paused_total_s) if job.paused_total_s else "0", quiet),
    )
    return Row(cells, safe_line(job.reason) if job.phase is not Phase.SUCCEEDED else "")


def phase_cell(job: JobInfo) -> Cell:
    """The phase in its colour; a pause by the owner is said as such."""
    text = "paused" if job.paused and job.phase is Phase.FROZEN else str(job.phase)
    if job.rung is not Rung.TRANSPARENT and job.phase in (Phase.RUNNING, Phase.FREEZING):
        text += f" ({job.rung})"
    return Cell(text, PHASE_STYLES[job.phase])


def lost_cell(job: JobInfo, style: str) -> Cell:
    """Work that had to be done again: 0 is the promise."""
    if not job.lost_s and not job.lost_lines:
        return Cell("0", style)
    return Cell(span_text(job.lost_s) if job.lost_s else f"{job.lost_lines}l", "red")


def _count(count: int, style: str) -> Cell:
    return Cell(str(count), style if count else style or "dim")


def places(job: JobInfo) -> str:
    """`node-0, node-1`: nothing is counted here, for ranks and devices have columns of their own."""
    return ", ".join(sorted(set(job.nodes))) or "-"


def ranks_text(job: JobInfo) -> str:
    """`4: 0-1 on node-0 (1 device), 2-3 on node-1 (1 device)`."""
    parts = (
        f"{numbers(ranks)} on {node}" + (f" ({_devices_of(job, len(ranks))})" if job.devices else "")
        for node, ranks in by_node(job.nodes)
    )
    return f"{job.ranks}: {', '.join(parts)}" if job.nodes else str(job.ranks)


def by_node(nodes: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Each node with the ranks on it, of a node per rank."""
    return [(node, [rank for rank, place in enumerate(nodes) if place == node]) for node in sorted(set(nodes))]


def _devices_of(job: JobInfo, ranks: int) -> str:
    """The devices under so many of its ranks: each has equally many."""
    return plural(ranks * job.devices // job.ranks, "device")


def total_s(job: JobInfo, now_s: float) -> float:
    """Seconds from submission to the end, or to now."""
    return (job.ended_s or now_s) - job.submitted_s


def run_s(job: JobInfo, now_s: float) -> float | None:
    """Seconds it computed: since its first start, without its pauses."""
    if job.started_s is None:
        return None
    return max(0.0, (job.ended_s or now_s) - job.started_s - job.paused_total_s)


def job_view(job: JobDetail, events: Sequence[EventInfo], now_s: float) -> Group:
    """Everything about one job: head, facts, snapshots, notes, its latest history."""
    from rich.console import Group
    from rich.text import Text

    head = Text.assemble(
        (safe_line(job.name), "bold"), f"  {job.id}  ", _styled(phase_cell(job)), f"  {_ending(job)}".rstrip()
    )
    lines: list[RenderableType] = [head, Text(safe_line(" ".join(job.command)), "dim")]
    lines += [Fact(name, value, style) for name, value, style in _facts(job, now_s) if value]
    lines += _snapshots(job, now_s)
    lines += [Fact("note", safe_line(text), "yellow") for text in (*sharing_text.reasons(job), *job.notes)]
    if events:
        lines += [Text(), Text("latest events", "bold"), events_view(events, now_s)]
    return Group(*lines)


def _ending(job: JobDetail) -> str:
    return f"exit code {job.exit_code}" if job.exit_code is not None else ""


def _facts(job: JobDetail, now_s: float) -> Iterable[tuple[str, str, str]]:
    yield "reason", safe_line(job.reason), "yellow" if job.phase not in ENDED else ""
    yield "remedy", safe_line(job.remedy), ""
    yield "tier", f"{job.tier}, project {job.project}", ""
    yield "ranks", ranks_text(job), ""
    yield "devices", sharing_text.devices(job), ""
    yield "pids", pids_text(job), ""
    yield "sharing", sharing_text.sharing(job), ""
    yield "time", f"{span_text(run_s(job, now_s))} computing of {span_text(total_s(job, now_s))} since submission", ""
    yield "history", _history(job), ""
    yield "lost", _lost(job), "red" if job.lost_s or job.lost_lines else "green"
    yield "rung", f"{job.rung}{': ' + safe_line(job.rung_because) if job.rung_because else ''}", ""
    yield "workdir", safe_line(job.workdir), ""
    yield "mounts", ", ".join(f"{safe_line(m.path)} ({_mount_mode(m.writable)})" for m in job.mounts), ""
    yield "network", f"{job.network}{', ' + ', '.join(job.addresses) if job.addresses else ''}", ""
    yield "forked", _forked(job), ""
    next_freeze = _next_freeze(job.freeze_cost_s, job.upload_cost_s, job.measured)
    yield "costs", f"a freeze takes about {next_freeze}; a thaw {span_text(job.thaw_cost_s)}", ""
    yield "threads", f"{job.threads} per rank" if job.threads else "", ""
    yield "limits", _limits(job), ""
    yield "env", f"{plural(len(job.env_names), 'variable')} recorded, values are never shown", "dim"


def _next_freeze(freeze_s: float, upload_s: float, measured: int) -> str:
    """How long it will take, and how that is known."""
    known = f"measured {plural(measured, 'time')}" if measured else "none of its own was measured yet"
    return f"{span_text(freeze_s)}, and {span_text(upload_s)} more until it is remote ({known})"


def pids_text(job: JobDetail) -> str:
    """`rank 0: 4711, rank 1: 4712 on node-0`; a few, for a job may have thousands."""
    shown = job.processes[:PIDS_MAX]
    nodes = groupby(shown, key=lambda one: one.node)
    parts = [f"{', '.join(f'rank {one.rank}: {one.pid}' for one in ranks)} on {node}" for node, ranks in nodes]
    parts += ["… (all of them: -o json)"] * (len(job.processes) > len(shown))
    return "; ".join(parts)


def _forked(job: JobDetail) -> str:
    if not job.forked_from:
        return ""
    given = f", given {', '.join(map(safe_line, job.fork_names))} (values are never shown)" if job.fork_names else ""
    return f"from {job.forked_from}{given}"


def _mount_mode(writable: bool) -> str:
    return "writable: not rolled back" if writable else "read-only"


def _history(job: JobInfo) -> str:
    parts = [plural(job.moves, "move"), plural(job.recoveries, "recovery", "recoveries"), plural(job.pauses, "pause")]
    return f"{', '.join(parts)}; {span_text(job.paused_total_s)} not computing"


def _lost(job: JobInfo) -> str:
    if not job.lost_s and not job.lost_lines:
        return "nothing had to be done again"
    return f"{span_text(job.lost_s)} of work and {plural(job.lost_lines, 'log line')} done again"


def _limits(job: JobDetail) -> str:
    every = f"a snapshot every {span_text(job.snapshot_every_s)}" if job.snapshot_every_s else "no periodic snapshots"
    saving = f", {span_text(job.grace_s)} to save itself after SIG{job.signal}" if job.grace_s else ""
    return f"{plural(job.max_restarts, 'restart')} at most, {every}{saving}"


def _snapshots(job: JobDetail, now_s: float) -> list[Text]:
    from rich.text import Text

    lines = [Text(), Text("snapshots", "bold")] if job.snapshots else []
    for s in job.snapshots[-5:]:
        state, style = durability(s)
        cost = f"{bytes_text(s.bytes)}, the job stood {span_text(s.stopped_s)}"
        name = f"  {safe_line(s.name)}" if s.name else ""
        line = f"  {s.id}{name}  {span_text(now_s - s.taken_s)} ago  {s.why}  {cost}, "
        lines.append(Text.assemble(line, (state, style)))
        lines += [Text(f"    └ {safe_line(s.trouble)}", "yellow")] if s.trouble else []
    return lines


def _styled(cell: Cell) -> tuple[str, str]:
    return cell.text, cell.style


def events_view(events: Sequence[EventInfo], now_s: float) -> Text:
    """One line an event: when, who, what."""
    from rich.text import Text

    return Text("\n").join(event_line(event, now_s) for event in events)


def event_line(event: EventInfo, now_s: float, job: str = "") -> Text:
    """`14:03:07  policy  frozen: …`; the date too when it is not today's."""
    from rich.text import Text

    return Text.assemble(
        (moment_text(event.at_s, now_s), "dim"),
        (f"  {event.actor:<12}  ", "cyan"),
        (f"{job}  " if job else "", "bold"),
        safe_line(event.text or event.kind),
    )


def moment_text(at_s: float, now_s: float) -> str:
    """A moment as a local time of day, with its date when that is another day's."""
    at, now = datetime.fromtimestamp(at_s), datetime.fromtimestamp(now_s)
    return at.strftime("%H:%M:%S" if at.date() == now.date() else "%Y-%m-%d %H:%M:%S")


def explanation_view(explanation: Explanation, name: str) -> Group:
    """Why a job is where it is, and what would change it."""
    from rich.console import Group
    from rich.text import Text

    phase = (str(explanation.phase), PHASE_STYLES[explanation.phase])
    lines: list[RenderableType] = [Text.assemble((safe_line(name), "bold"), "  ", phase)]
    lines += [Fact("because", safe_line(explanation.reason))] if explanation.reason else []
    lines += _last_words(explanation)
    lines += [Fact("needs", safe_line(text)) for text in explanation.requirements]
    lines += [Fact("rung", safe_line(explanation.rung))] if explanation.rung else []
    if explanation.freeze_cost_s is not None and explanation.upload_cost_s is not None:
        costs = _next_freeze(explanation.freeze_cost_s, explanation.upload_cost_s, explanation.measured)
        lines.append(Fact("freeze", f"would take about {costs}"))
    lines += [Fact("ahead", ", ".join(map(safe_line, explanation.ahead)))] if explanation.ahead else []
    lines += [Fact("change", safe_line(explanation.remedy), "green")] if explanation.remedy else []
    return Group(*lines)


def _last_words(explanation: Explanation) -> list[Fact]:
    said = explanation.last_words
    if said is None:
        return []
    first, *others = (safe_line(line) for line in said.lines)
    return [Fact("stderr", f"rank {said.rank}: {first}"), *(Fact("", line) for line in others)]


_NODES: Final = (
    Column("NODE"),
    Column("STATE"),
    Column("USED", right=True),
    Column("DEVICES"),
    Column("LEASE", 1, right=True),
    Column("DETAIL", 2),
)


def nodes_view(nodes: Sequence[NodeInfo], names: Mapping[str, str], width: int) -> Text:
    """Each node with its devices and who sits on them."""
    return table(_NODES, [_node_row(node, names) for node in nodes], width)


def _node_row(node: NodeInfo, names: Mapping[str, str]) -> Row:
    state, style = (
        ("gone", "bold red") if not node.ready else ("draining", "yellow") if node.draining else ("ready", "green")
    )
    used = [job for job in node.used if job is not None]
    blocks = "".join("■" if job is not None else "□" for job in node.used)
    sitting = ", ".join(dict.fromkeys(names.get(job, job) for job in used))
    cells = (
        Cell(node.id, "bold"),
        Cell(state, style),
        Cell(f"{len(used)}/{node.devices}"),
        Cell(f"{blocks} {safe_line(sitting)}".rstrip()),
        Cell(span_text(node.lease_left_s) if node.ready else "out", "" if node.ready else "red"),
        Cell(safe_line(node.detail), "dim"),
    )
    return Row(cells)


def _sharing(jobs: int) -> str:
    return f"; {plural(jobs, 'job')} on fewer than {'it has' if jobs == 1 else 'they have'} ranks" if jobs else ""


def status_view(status: StatusInfo, url: str) -> Group:
    """The service at a glance."""
    from rich.console import Group
    from rich.text import Text

    jobs = ", ".join(f"{count} {phase}" for phase, count in status.jobs.items() if count) or "none"
    state = ("closing", "yellow") if status.closing else ("up", "bold green")
    lines: list[RenderableType] = [
        Text.assemble(("ergosphere", "bold"), f" {status.version} is ", state, f" for {span_text(status.up_s)}"),
        Fact("server", f"{url}, pid {status.pid}"),
        Fact("home", safe_line(status.home)),
        Fact(
            "nodes",
            f"{status.nodes_ready} of {status.nodes} ready",
            "" if status.nodes_ready == status.nodes else "yellow",
        ),
        Fact("devices", f"{status.devices_used} of {status.devices} in use{_sharing(status.jobs_sharing)}"),
        Fact("jobs", jobs),
    ]
    lines += [Fact("fault", safe_line(status.fault), "bold red")] if status.fault else []
    return Group(*lines)
