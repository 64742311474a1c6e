"""Group `policy`, the judgement's share: how long deciding takes on large fleets.

Times are CPU time of one core: what else the machine does meanwhile does not count.
"""

from __future__ import annotations

import gc
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from bench.report import Row, row
from ergosphere.core import fraction
from ergosphere.core.model import (
    TIER_ORDER,
    Decision,
    Freeze,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Plan,
    Resize,
    Start,
    Stop,
    Thaw,
    Tier,
    View,
)
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.seats import cells_of

DEVICES: Final = 8  # of a node
DOMAIN_NODES: Final = 32
CLUSTER_NODES: Final = 4096
SIZES: Final = (1, 1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 16, 32, 64)  # ranks of a job
PROJECTS: Final = 15
CHANGES: Final = 100  # since the last turn
LARGE: Final = 16_384  # nodes: 131,072 devices
JOBS: Final = 20_000  # live
CURVE: Final = (128, 512, 2_048, 8_192, 32_768, 131_072)  # nodes: about 1k to 1M devices
RULES: Final = Rules()


def measure(quick: bool) -> list[Row]:
    rows = [*_large(quick), *_live(quick), *_curve(quick)]
    for each in rows:
        print(f"  {each.name}: {each.value:.3g} {each.unit} (goal {each.goal:.3g}, bar {each.bar:.3g})", flush=True)
    return rows


def _large(quick: bool) -> list[Row]:
    """Everything at 131,072 devices, in a process of its own, so that its memory is its own."""
    turns = 20 if quick else 100
    code = f"from bench.policy import large; large({turns})"
    found = _told_by([sys.executable, "-c", code])
    at = "131,072 devices, 20,000 live jobs"
    return [
        row("policy/turn/100_changes", found["turn"], "ms", goal=20, bar=100, against=at),
        row("policy/replan/from_nothing", found["replan"], "s", goal=0.5, bar=2, against=f"{at}: board and plan"),
        row("policy/place/free", found["place"], "ms", goal=0.2, bar=1.3, against="MAST, as quoted: 1.3 ms"),
        row("policy/place/preempting", found["preempt"], "ms", goal=1, bar=5.5, against="MAST, as quoted: 5.5 ms"),
        row("policy/memory", found["memory"], "GB", goal=1.5, bar=1.5, against=f"{at}, the whole process"),
    ]


def _live(quick: bool) -> list[Row]:
    """The service's whole turn on its real ledger, orders written; in a process of its own, on a ledger in memory."""
    turns = 10 if quick else 40
    found = _told_by([sys.executable, "-m", "bench.live_turn", str(turns)])
    parts = ", ".join(f"{name} {median(found[name]):.0f}" for name in ("notice", "observe", "decide", "commit"))
    print(f"  a live turn with {median(found['orders']):.0f} orders, ms: {parts}", flush=True)
    at = "131,072 devices, 20,000 live jobs, SQLite; every start or freeze it orders included"
    return [row("policy/turn/live_ledger", found["turn"], "ms", goal=20, bar=100, against=at)]


def _told_by(command: list[str]) -> dict[str, list[float]]:
    """What a process printed as NAME=figure figure …"""
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = (line.partition("=") for line in printed.splitlines())
    return {name: [float(word) for word in words.split()] for name, _, words in lines}


def _curve(quick: bool) -> list[Row]:
    """A turn of 100 changes, on fleets of 1k to 1M devices with 2,000 jobs that run and 500 that wait."""
    found: dict[int, list[float]] = {}
    for nodes in CURVE[:4] if quick else CURVE:
        fleet = Motion.of(nodes, min(2_500, nodes * 4), seed=nodes)
        found[nodes] = [fleet.turn() for _ in range(10 if quick else 30)]
        print(f"  {nodes * DEVICES:>9,} devices: {median(found[nodes]):.2f} ms a turn", flush=True)
    first, last = min(found), max(found)
    growth = [after / median(found[first]) for after in found[last]]
    against = f"{first * DEVICES:,} devices; the fleet grows {last // first}-fold"
    return [row("policy/turn/growth", growth, "×", goal=2, bar=4, against=against)]


@dataclass
class Motion:
    """A fleet under load: jobs come and end, orders are carried out at once."""

    board: Board
    dice: random.Random
    now_s: float = 5_000.0
    count: int = 0
    running: list[JobId] = field(default_factory=list)

    @staticmethod
    def of(nodes: int, jobs: int, seed: int) -> Motion:
        dice = random.Random(seed)
        motion = Motion(Board(RULES), dice)
        view = View(motion.now_s, tuple(motion.job() for _ in range(jobs)), tuple(fleet(nodes)))
        motion.board = Board.of(view, RULES)
        motion.carry_out(decide(motion.board, RULES))
        return motion

    def job(self, tier: Tier | None = None, ranks: int = 0) -> JobView:
        self.count += 1
        ranks = ranks or self.dice.choice(SIZES)
        tier = tier or self.dice.choices(TIER_ORDER, [2, 3, 5])[0]
        name = JobId(f"j{self.count:07}")
        return JobView(
            name,
            name,
            tier,
            f"p{self.count % PROJECTS}",
            ranks,
            Phase.WAITING,
            self.now_s,
            account=fraction.opened(self.now_s, ranks),
            freeze_cost_s=self.dice.uniform(1, 30),
            thaw_cost_s=5.0,
        )

    def carry_out(self, plan: Plan) -> None:
        for decision in plan.decisions:
            job = self.board.job(decision.job)
            assert job is not None
            self.board.put_job(self._obeyed(job, decision))
        self.board.promise(plan.rooms)

    def _obeyed(self, job: JobView, decision: Decision) -> JobView:
        account = job.account
        assert account is not None
        match decision:
            case Start(placement=placement) | Thaw(placement=placement):
                self.running.append(job.id)
                account, _ = fraction.changed(account, self.now_s, rate=float(job.ranks))
                cells = job.cells or cells_of(placement)
                return replace(
                    job, phase=Phase.RUNNING, seats=placement, cells=cells, running_since_s=self.now_s, account=account
                )
            case Freeze():
                account, _ = fraction.changed(account, self.now_s, rate=0.0)
                return replace(job, phase=Phase.FROZEN, seats=(), running_since_s=None, account=account)
            case Stop() | Resize():
                raise AssertionError("nothing here is cancelled or shared")

    def turn(self) -> float:
        """Milliseconds of one turn with `CHANGES` changes: telling the board, and deciding."""
        self.now_s += 5
        self.running = [one for one in self.running if (job := self.board.job(one)) and job.phase is Phase.RUNNING]
        leaving = self.dice.sample(self.running, min(CHANGES // 2, len(self.running)))
        coming = [self.job() for _ in range(CHANGES - len(leaving))]
        began_s = time.process_time()
        self.board.advance(self.now_s)
        for name in leaving:
            self.board.drop_job(name)
        for job in coming:
            self.board.put_job(job)
        plan = decide(self.board, RULES)
        took_ms = 1000 * (time.process_time() - began_s)
        self.carry_out(plan)
        return took_ms


def fleet(nodes: int) -> list[NodeView]:
    return [
        NodeView(
            NodeId(f"n{index:06}"),
            DEVICES,
            domain=f"d{index // DOMAIN_NODES:05}",
            cluster=f"c{index // CLUSTER_NODES}",
        )
        for index in range(nodes)
    ]


def large(turns: int) -> None:
    """Prints what `_large` reads: NAME=figure figure …"""
    motion = Motion.of(LARGE, JOBS, seed=1)
    gc.freeze()
    replans = []
    for _ in range(3):
        view = View(motion.now_s, tuple(_as_new(job) for job in motion.board.jobs()), tuple(fleet(LARGE)))
        replans.append(_took_s(lambda view=view: decide(Board.of(view, RULES), RULES)))
    _tell("replan", replans)
    _tell("turn", [motion.turn() for _ in range(turns)])
    _tell("memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6])
    _fill(motion)
    _tell("preempt", _one_placement(motion, Tier.PREMIUM, turns))
    for name in motion.running[:2_000]:
        motion.board.drop_job(name)
    motion.carry_out(decide(motion.board, RULES))
    _tell("place", _one_placement(motion, Tier.BASIC, turns))


def _as_new(job: JobView) -> JobView:
    return replace(job, phase=Phase.WAITING, seats=(), cells=(), running_since_s=None)


def _fill(motion: Motion) -> None:
    """Basic work in every hole, and nobody left waiting."""
    waiting = [job.id for job in motion.board.jobs() if job.phase is not Phase.RUNNING]
    for name in waiting:
        motion.board.drop_job(name)
    free = motion.board.now.refresh().total
    for _ in range(free):
        motion.board.put_job(motion.job(Tier.BASIC, 1))
    motion.carry_out(decide(motion.board, RULES))


def _one_placement(motion: Motion, tier: Tier, times: int) -> list[float]:
    """Milliseconds from one more job to a plan that places it, or that frees its devices."""
    took = []
    for _ in range(times):
        job = motion.job(tier, 8)
        motion.board.put_job(job)
        took.append(1000 * _took_s(lambda: decide(motion.board, RULES)))
        plan = decide(motion.board, RULES)
        assert plan.decisions, "it found no place"
        motion.board.drop_job(job.id)
    return took


def _took_s(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def _tell(name: str, figures: list[float]) -> None:
    print(f"{name}={' '.join(f'{each:.6g}' for each in figures)}")
