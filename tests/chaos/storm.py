"""A storm over a private fleet: server, agents and ranks are killed at random while the example programs run.

Kills fall at any instant, also in the middle of the freezes, moves and snapshots that are asked for in between. What
the seed decides is who is hit when; what the fleet is doing at that moment is the machine's affair.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ergosphere import system
from ergosphere.agent import cgroups
from ergosphere.cli import asking
from ergosphere.cli.desk import Desk
from ergosphere.cli.draft import Draft
from ergosphere.cli.submission import Submitter, prepare
from ergosphere.cli.verifying.blows import GENTLE, Blow, Kind, one_of
from ergosphere.cli.verifying.compare import compare_runs
from ergosphere.cli.verifying.course import collect, sent, submit
from ergosphere.cli.verifying.fleet import PrivateFleet
from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.cli.verifying.plain import PlainRun, run_plain
from ergosphere.cli.verifying.ranks import running_ranks
from ergosphere.cli.verifying.strikes import agent_of, job_now, patient, strike
from ergosphere.cli.verifying.sweep import forget_memory
from ergosphere.cli.workcopy import WorkCopy, scan_directory
from ergosphere.core.model import ENDED, Phase
from ergosphere.system import Dice
from ergosphere.wire.api import VerbRequest
from ergosphere.wire.jobs import JobDetail, JobSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
RENEWED_UNTIL = 0.6  # of the kills: what starts later only lengthens the calm
CALM_S_MAX = 300.0  # after the last kill: until every job has ended
AWAY_S_MAX = 1.5  # how long a killed server stays away
SNAPSHOT_EVERY_S = 3.0
KILLS = (Kind.KILL_RANK, Kind.KILL_AGENT, Kind.KILL_SERVER)
WEIGHTS = (5, 6, 2)  # of KILLS: a server takes a second to come back, and nothing else can be done meanwhile


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    command: tuple[str, ...]


def short_programs() -> tuple[Program, ...]:
    """The server's port is free on this machine: its undisturbed run has no network of its own."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return (
        Program("digits", ("torchrun", "--nproc-per-node", "2", "digits_ddp.py", "--steps", "60")),
        Program("chargpt", ("python", "chargpt.py", "--steps", "60", "--save-every", "15", "--sample", "40")),
        Program("serve", ("python", "serve.py", "--port", port, "--steps", "100", "--requests", "300")),
        Program("primes", ("sh", "primes.sh", "--steps", "120")),
    )


@dataclass(frozen=True, slots=True)
class Force:
    """How hard it blows: until how many kills or seconds, how far apart (seconds), and how often a node is lost."""

    kills: int
    span_s: float
    apart_s: float
    node_loss: float = 0.0


@dataclass(slots=True)
class Storm:
    """One storm. `history` is what happened, line by line; `faults` is what came out wrong."""

    fleet: PrivateFleet
    dice: Dice
    say: Callable[[str], None]
    folder: Path
    programs: tuple[Program, ...] = field(default_factory=short_programs)
    history: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    dealt: Counter[Kind] = field(default_factory=Counter)
    compared: int = 0
    recoveries: int = 0
    moves: int = 0
    _specs: dict[str, JobSpec] = field(default_factory=dict)
    _references: dict[str, Future[Outcome]] = field(default_factory=dict)
    _jobs: dict[str, str] = field(default_factory=dict)
    _copy: WorkCopy | None = None
    _began_s: float = 0.0

    @property
    def kills(self) -> int:
        return sum(self.dealt.values())

    def blow(self, force: Force) -> None:
        """Start everything, kill until it is enough, wait for calm, compare."""
        self._began_s = self.fleet.clock.monotonic()
        self._prepare()
        for program in self.programs:
            self._submit(program.name)
        end_s = self._began_s + force.span_s
        while self.kills < force.kills and self.fleet.clock.monotonic() < end_s:
            self._turn(force)
            self.fleet.clock.sleep(self.dice.uniform(0.0, 2 * force.apart_s))
            self._look(renew=self.kills < RENEWED_UNTIL * force.kills)
        self.note(f"calm after {self.kills} kills: " + ", ".join(f"{n} × {kind}" for kind, n in self.dealt.items()))
        self._await_end()

    def note(self, text: str) -> None:
        line = f"{self.fleet.clock.monotonic() - self._began_s:7.1f}s  {text}"
        self.history.append(line)
        self.say(line)

    # ── the programs ─────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self) -> None:
        here = Desk(self.fleet.environment, system.home(), EXAMPLES, self.fleet.clock)
        self._copy = scan_directory(EXAMPLES, here.home)
        for program in self.programs:
            draft = Draft(
                command=program.command,
                name=program.name,
                snapshot_every_s=SNAPSHOT_EVERY_S,
                max_restarts=100_000,
                threads=1,
            )
            prepared = prepare(draft, Submitter(here.environment, here.folder, here.home, near=True))
            self._specs[program.name] = sent(self.fleet, prepared, self._copy)
            self._references[program.name] = self._reference(program.name)

    def _reference(self, name: str) -> Future[Outcome]:
        """The plain run, beside the storm: killing what belongs to the fleet does not touch it."""
        assert self._copy is not None
        found: Future[Outcome] = Future()
        folder = self.folder / name
        folder.mkdir()
        run = PlainRun(self._specs[name], self._copy, self.fleet.cores)
        group = f"ergo-{system.fleet_id(self.fleet.home)}/plain-{name}"

        def work() -> None:
            try:
                found.set_result(run_plain(run, folder, group, self.fleet.clock))
            except BaseException as fault:
                found.set_exception(fault)

        threading.Thread(target=work, daemon=True).start()
        return found

    def _submit(self, name: str) -> None:
        self._jobs[name] = submit(self.fleet, self._specs[name])

    def _look(self, renew: bool) -> None:
        """A job that has ended is compared; its program starts again while the storm is far from over."""
        for name, job in list(self._jobs.items()):
            found = job_now(self.fleet, job)
            if found.phase in ENDED:
                self._compare(name, found)
                del self._jobs[name]
        ended = [program.name for program in self.programs if program.name not in self._jobs]
        for name in ended if renew else ended[:1] if not self._jobs else ():
            self._submit(name)

    def _await_end(self) -> None:
        deadline_s = self.fleet.clock.monotonic() + CALM_S_MAX
        waiting = dict(self._jobs)
        while waiting and self.fleet.clock.monotonic() < deadline_s:
            for name, job in list(waiting.items()):
                found = job_now(self.fleet, job)
                if found.paused:
                    self._resume(job)
                if found.phase in ENDED:
                    del waiting[name]
                    self._compare(name, found)
            self.fleet.clock.sleep(0.2)
        for name, job in waiting.items():
            found = job_now(self.fleet, job)
            self.faults.append(
                f"{name} ({job}) is still {found.phase} {CALM_S_MAX:.0f} s after the storm: {found.reason}"
            )

    def _compare(self, name: str, job: JobDetail) -> None:
        assert self._copy is not None
        self.moves, self.recoveries = self.moves + job.moves, self.recoveries + job.recoveries
        text = f"{name} ({job.id}) {job.phase}: {job.moves} moves, {job.recoveries} recoveries, {job.lost_lines} lost"
        if job.phase is not Phase.SUCCEEDED:
            self.faults.append(f"{text}: {job.reason}")
            self.note(self.faults[-1])
            return
        outcome = patient(self.fleet, lambda client: collect(self.fleet, client, job, 0.0))
        comparison = compare_runs(self._references[name].result(), outcome, self._copy.tree)
        self.compared += 1
        if comparison.first is not None:
            self.faults.append(f"{text}: differs from the plain run: {comparison.first}")
        self.note(f"{text}: {'identical' if comparison.identical else 'DIFFERS'}")

    # ── the blows ────────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, force: Force) -> None:
        """Perhaps something is asked for; then, before it can be done, somebody is killed."""
        if self.dice.random() < 0.6:
            self._ask()
            self.fleet.clock.sleep(self.dice.uniform(0.0, 1.0))
        if self.dice.random() < force.node_loss:
            self._lose_node()
            return
        kind = self.dice.choices(KILLS, WEIGHTS)[0]
        kill = {Kind.KILL_RANK: self._kill_rank, Kind.KILL_AGENT: self._kill_agent, Kind.KILL_SERVER: self._kill_server}
        text = kill[kind]()
        if text is not None:
            self.dealt[kind] += 1
            self.note(text)

    def _ask(self) -> None:
        name = self.dice.choice(sorted(self._jobs))
        blow = Blow(self.dice.choice((*GENTLE, Kind.RESIZE)), 0.0, self.dice.random() * 0.5)
        self.note(f"{name}: {strike(self.fleet, self._jobs[name], blow, wait_s=0.0).text}")

    def _resume(self, job: str) -> None:
        with suppress(Exception):
            patient(self.fleet, lambda client: asking.verb(client, job, "resume", VerbRequest()))

    def _kill_rank(self) -> str | None:
        ranks = running_ranks(self.fleet)
        pick = self.dice.random()
        if not ranks:
            return None
        hit = one_of(ranks, pick)
        if not _kill(hit.pid):
            return None
        return f"kill -9 {hit.pid}: rank {hit.rank} of {hit.cell} on {hit.node}"

    def _kill_agent(self) -> str | None:
        node = self.dice.choice(self.fleet.nodes)
        pid = agent_of(self.fleet, node)
        return f"kill -9 {pid}: the agent of {node}" if pid is not None and _kill(pid) else None

    def _kill_server(self) -> str:
        pid = self.fleet.kill_server()
        away_s = self.dice.uniform(0.0, AWAY_S_MAX)
        more = None
        if self.dice.random() < 0.4:  # and while it is away, somebody else
            more = self.dice.choice((self._kill_agent, self._kill_rank))()
        self.fleet.clock.sleep(away_s)
        self.fleet.start_server()
        if more is not None:
            self.dealt[Kind.KILL_AGENT if "agent" in more else Kind.KILL_RANK] += 1
            self.note(more)
        return f"kill -9 {pid}: the server, away {away_s:.1f} s"

    def _lose_node(self) -> None:
        node = self.dice.choice(self.fleet.nodes)
        cgroups.freezer(self.fleet.place(node).group, cgroups.choose(system.freezer_version())).kill()
        forget_memory(self.fleet.place(node).memory)
        self.dealt[Kind.LOSE_NODE] += 1
        self.note(f"{node} lost: its agent, keepers, ranks and memory")


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
