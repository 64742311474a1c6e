"""Dealing a blow to a job in a private fleet, and saying in one line what happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from ergosphere import system
from ergosphere.agent import cgroups
from ergosphere.cli import asking
from ergosphere.cli.api import Client, Unreachable
from ergosphere.cli.errors import CliError
from ergosphere.cli.verifying import sweep
from ergosphere.cli.verifying.blows import Blow, Kind, one_of
from ergosphere.cli.verifying.fleet import PrivateFleet
from ergosphere.cli.verifying.ranks import is_running, main_process
from ergosphere.cli.words import plural
from ergosphere.core import elastic
from ergosphere.core.model import ENDED, Phase
from ergosphere.wire.api import MigrateRequest, ResizeRequest, VerbRequest

if TYPE_CHECKING:
    from ergosphere.wire.jobs import JobDetail

Answer = TypeVar("Answer")

VERB_WAIT_S: Final = 60.0  # a freeze and a thaw on a busy machine
PAUSED_S_MAX: Final = 1.0  # how long a pause lasts at most: `pick` of it
ON_ITS_WAY: Final = frozenset({Phase.RESIZING, Phase.FREEZING, Phase.THAWING, Phase.STARTING, Phase.CLEARING})
AWAY_S_MAX: Final = 2.0  # how long the server stays away at most
ASK_S_MAX: Final = 60.0  # while the server is away
RETRY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Struck:
    """What came of a blow. `done` False: it could not be dealt (the job was frozen or over), was refused, or has not
    been carried out in time.
    """

    blow: Blow
    text: str
    done: bool


def strike(fleet: PrivateFleet, job: str, blow: Blow, wait_s: float = VERB_WAIT_S) -> Struck:
    """Deal a blow, whatever the job is doing; verbs wait at most `wait_s` until they have been done."""
    try:
        dealt = _again_if_away(fleet, job, lambda: _strike(fleet, job, blow, wait_s))
    except CliError as refused:
        return Struck(blow, f"{blow.kind}: refused, {refused.cause}", done=False)
    if dealt is None:
        return Struck(blow, f"{blow.kind}: the job was not running, nothing to hit", done=False)
    return Struck(blow, dealt.text, dealt.done)


@dataclass(frozen=True, slots=True)
class _Dealt:
    """What was done, in words. `done` False: it was asked for, and not done within the time given."""

    text: str
    done: bool = True


def _again_if_away(fleet: PrivateFleet, job: str, deal: Callable[[], _Dealt | None]) -> _Dealt | None:
    """Once more, when the job is at rest, where another blow took the server away meanwhile."""
    try:
        return deal()
    except Unreachable:
        deadline_s = fleet.clock.monotonic() + ASK_S_MAX
        while job_now(fleet, job).phase in ON_ITS_WAY and fleet.clock.monotonic() < deadline_s:
            fleet.clock.sleep(RETRY_S)
        return deal()


def _strike(fleet: PrivateFleet, job: str, blow: Blow, wait_s: float) -> _Dealt | None:
    match blow.kind:
        case Kind.PAUSE:
            return _pause(fleet, job, blow.pick, wait_s)
        case Kind.MOVE:
            return _move(fleet, job, wait_s)
        case Kind.RESIZE:
            return _resize(fleet, job, blow.pick, wait_s)
        case Kind.SNAPSHOT:
            return _snapshot(fleet, job, wait_s)
        case Kind.KILL_RANK:
            return _kill_rank(fleet, job, blow.pick, wait_s)
        case Kind.KILL_AGENT:
            return _kill_agent(fleet, one_of(fleet.nodes, blow.pick)) if is_running(fleet, job) else None
        case Kind.KILL_SERVER:
            return _kill_server(fleet, AWAY_S_MAX * blow.pick) if is_running(fleet, job) else None
        case Kind.LOSE_NODE:
            return _lose_node(fleet, job, blow.pick)


@dataclass(slots=True)
class Asker:
    """Questions to the server over one connection, made anew when it was killed. Not for several threads at once."""

    fleet: PrivateFleet
    _client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def ask(self, question: Callable[[Client], Answer]) -> Answer:
        """The answer to a question that may be asked twice. Raises Unreachable when the server stays away."""
        clock = self.fleet.clock
        deadline_s = clock.monotonic() + ASK_S_MAX
        while True:
            try:
                self._client = self._client or self.fleet.client()
                return question(self._client)
            except Unreachable:
                self._client = None
                if clock.monotonic() > deadline_s:
                    raise
                clock.sleep(RETRY_S)

    def job(self, job: str) -> JobDetail:
        """The job as the server knows it."""
        return self.ask(lambda client: asking.job(client, job))


def patient(fleet: PrivateFleet, question: Callable[[Client], Answer]) -> Answer:
    """One question that may be asked twice."""
    with Asker(fleet) as asker:
        return asker.ask(question)


def job_now(fleet: PrivateFleet, job: str) -> JobDetail:
    """The job as the server knows it, asked until it answers."""
    return patient(fleet, lambda client: asking.job(client, job))


def _once_running(fleet: PrivateFleet, job: str, wait_s: float) -> JobDetail | None:
    """The job as soon as it runs (it may be making room just now); None when it has ended, or not within `wait_s`."""
    deadline_s = fleet.clock.monotonic() + wait_s
    while (found := job_now(fleet, job)).phase is not Phase.RUNNING:
        if found.phase in ENDED or fleet.clock.monotonic() >= deadline_s:
            return None
        fleet.clock.sleep(RETRY_S)
    return found


def _pause(fleet: PrivateFleet, job: str, pick: float, wait_s: float) -> _Dealt | None:
    if job_now(fleet, job).phase in ENDED:
        return None
    with fleet.client() as client:
        asking.verb(client, job, "pause", VerbRequest(wait_s=wait_s))
        fleet.clock.sleep(PAUSED_S_MAX * pick)
        result = asking.verb(client, job, "resume", VerbRequest(wait_s=wait_s))
    return _Dealt(f"paused, and resumed {_where(result.job.nodes)}")


def _move(fleet: PrivateFleet, job: str, wait_s: float) -> _Dealt | None:
    before = job_now(fleet, job)
    if before.phase in ENDED:
        return None
    with fleet.client() as client:
        result = asking.verb(client, job, "migrate", MigrateRequest(wait_s=wait_s))
    text = (
        f"moved from {_names(before.nodes)} to {_names(result.job.nodes)}"
        if result.done
        else f"asked for a move: {result.text}"
    )
    return _Dealt(text, result.done)


def _resize(fleet: PrivateFleet, job: str, pick: float, wait_s: float) -> _Dealt | None:
    before = _once_running(fleet, job, wait_s)
    if before is None:
        return None
    others = [size for size in elastic.sizes(before.ranks, before.min_devices) if size != before.devices]
    if not others:
        return None
    with fleet.client() as client:
        result = asking.verb(client, job, "resize", ResizeRequest(devices=one_of(others, pick), wait_s=wait_s))
    if not result.done:
        return _Dealt(f"asked for {one_of(others, pick)} devices", done=False)
    text = f"resized from {plural(before.devices, 'device')} to {result.job.devices}"
    return _Dealt(f"{text}, {_where(result.job.nodes)}")


def _snapshot(fleet: PrivateFleet, job: str, wait_s: float) -> _Dealt | None:
    if _once_running(fleet, job, wait_s) is None:
        return None
    with fleet.client() as client:
        result = asking.verb(client, job, "snapshot", VerbRequest(wait_s=wait_s))
    return _Dealt(f"snapshot {result.snapshot}" if result.done else "asked for a snapshot", result.done)


def _kill_rank(fleet: PrivateFleet, job: str, pick: float, wait_s: float) -> _Dealt | None:
    found = _once_running(fleet, job, wait_s)
    if found is None:
        return None
    rank = one_of(range(found.ranks), pick)
    pid = main_process(fleet, found.id, found.incarnation, rank)
    if pid is None or not _kill(pid):
        return None
    text = f"kill -9 {pid}: rank {rank} {_where(found.nodes)}"
    struck_s = fleet.clock.monotonic()
    back = _recovered(fleet, found, wait_s)
    if back is None:
        return _Dealt(text)
    return _Dealt(f"{text}; back {_where(back.nodes)} after {fleet.clock.monotonic() - struck_s:.1f} s")


def _recovered(fleet: PrivateFleet, before: JobDetail, wait_s: float) -> JobDetail | None:
    """The job once it runs in a later life; None when it does not within `wait_s`, or has ended."""
    deadline_s = fleet.clock.monotonic() + wait_s
    while fleet.clock.monotonic() < deadline_s:
        now = job_now(fleet, before.id)
        if now.phase in ENDED:
            return None
        if now.incarnation > before.incarnation and now.phase is Phase.RUNNING:
            return now
        fleet.clock.sleep(RETRY_S)
    return None


def _kill_agent(fleet: PrivateFleet, node: str) -> _Dealt | None:
    pid = agent_of(fleet, node)
    if pid is None or not _kill(pid):
        return None
    return _Dealt(f"kill -9 {pid}: the agent of {node}")


def agent_of(fleet: PrivateFleet, node: str) -> int | None:
    """The process of a node's agent; None while none runs."""
    with suppress(OSError, ValueError):
        pid = int((fleet.place(node).node_dir / "agent.lock").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return pid if os.fsencode(fleet.home) in words and node.encode() in words else None
    return None


def _kill_server(fleet: PrivateFleet, away_s: float) -> _Dealt:
    pid = fleet.kill_server()
    fleet.clock.sleep(away_s)
    fleet.start_server()
    return _Dealt(f"kill -9 {pid}: the server; another one {away_s:.1f} s later")


def _lose_node(fleet: PrivateFleet, job: str, pick: float) -> _Dealt | None:
    """What a crash of the machine takes: every process of the node, and its memory."""
    held = sorted(set(job_now(fleet, job).nodes))
    node = one_of(held or fleet.nodes, pick)
    group = cgroups.freezer(fleet.place(node).group, cgroups.choose(system.freezer_version()))
    group.kill()
    sweep.forget_memory(fleet.place(node).memory)
    return _Dealt(f"{node} lost: its agent, keepers, ranks and memory")


def _kill(pid: int) -> bool:
    """False when it had ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _names(nodes: tuple[str, ...]) -> str:
    return " and ".join(sorted(set(nodes))) or "nowhere"


def _where(nodes: tuple[str, ...]) -> str:
    return f"on {_names(nodes)}"
