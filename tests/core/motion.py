"""A larger toy world for the policy: regions, types, projects, elastic jobs and accounts; it feeds a kept board."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from ergosphere.core import fraction
from ergosphere.core.model import (
    HOLDS_SEATS,
    TIER_ORDER,
    Cause,
    Decision,
    Freeze,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Plan,
    ProjectView,
    Seat,
    Tier,
    Together,
    View,
    Why,
)
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.obey import ordered
from ergosphere.core.policy.rules import Rules

PROJECTS = (
    ProjectView("lab", guarantee=10, limit=30),
    ProjectView("lab-a", parent="lab", guarantee=6, weight=2.0),
    ProjectView("lab-b", parent="lab", guarantee=4),
    ProjectView("free", weight=1.0),
    ProjectView("tight", guarantee=4, borrow=False),
)


@dataclass
class Motion:
    """Every change goes to `jobs` and `nodes` (the truth) and to `board` (kept); plans are carried out."""

    seed: int
    rules: Rules = field(default_factory=lambda: Rules(min_run_s=60.0))
    now_s: float = 7_000.0
    jobs: dict[JobId, JobView] = field(default_factory=dict)
    nodes: dict[NodeId, NodeView] = field(default_factory=dict)
    projects: tuple[ProjectView, ...] = PROJECTS
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    count: int = 0
    stirred: bool = True  # since the last turn something has happened that may change a decision

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.board = Board(self.rules)
        self.board.put_projects(self.projects)
        self.board.advance(self.now_s)
        for index in range(self.dice.randint(3, 9)):
            place = {"region": f"r{index % 2}", "domain": f"d{index % 3}"} if self.seed % 3 else {}
            kind = "fast" if self.seed % 2 and index % 4 == 0 else ""
            self.put_node(NodeView(NodeId(f"n{index}"), self.dice.choice([2, 4, 4, 8]), type=kind, **place))

    def put_node(self, node: NodeView) -> None:
        self.stirred = True
        self.nodes[node.id] = node
        self.board.put_node(node)

    def put_job(self, job: JobView) -> None:
        if job.phase is Phase.SUCCEEDED:
            self.jobs.pop(job.id, None)
        else:
            self.jobs[job.id] = job
        self.stirred |= self.board.put_job(job)

    def view(self) -> View:
        jobs = (replace(job, room=self.board.promises.rooms.get(job.id, ())) for job in self.jobs.values())
        return View(self.now_s, tuple(jobs), tuple(self.nodes.values()), self.projects)

    def turn(self, turn_s: float, patience: float) -> Plan:
        plan = decide(self.board, self.rules)
        for decision in plan.decisions:
            self.decisions.append((self.now_s, decision))
            self.put_job(self._ordered(self.jobs[decision.job], decision))
        self.board.promise(plan.rooms)
        self.now_s += turn_s
        self.stirred = self.board.advance(self.now_s)
        for job in list(self.jobs.values()):
            if self.dice.random() < patience:
                self._answer(job)
        return plan

    def _ordered(self, job: JobView, decision: Decision) -> JobView:
        after = ordered(job, decision)
        if isinstance(decision, Freeze):
            if decision.why is Why.PREEMPT:
                recent = tuple(at_s for at_s in job.pauses if at_s > self.now_s - 3600)
                after = replace(after, pauses=(*recent, self.now_s))
            after = self._at_rate(after, 0.0)
        return after

    def _at_rate(self, job: JobView, rate: float) -> JobView:
        assert job.account is not None
        counts = not (job.paused or job.after)
        return replace(
            job, account=fraction.changed(job.account, self.now_s, rate=rate, counts=counts, cause=Cause.PREEMPT)[0]
        )

    def _answer(self, job: JobView) -> None:
        match job.phase:
            case Phase.STARTING | Phase.THAWING:
                running = replace(job, phase=Phase.RUNNING, running_since_s=self.now_s, move_asked=False)
                self.put_job(self._at_rate(running, len(set(job.seats))))
            case Phase.RESIZING:
                sized = replace(job, phase=Phase.RUNNING, seats=job.going_to, going_to=(), resized_s=self.now_s)
                self.put_job(self._at_rate(sized, len(set(sized.seats))))
            case Phase.FREEZING:
                home = tuple(job.seats[cell.ranks[0]].node for cell in job.cells)
                self.put_job(
                    replace(
                        job,
                        phase=Phase.FROZEN,
                        seats=(),
                        home=home,
                        freezing_why=None,
                        freezing_for=None,
                        running_since_s=None,
                    )
                )
            case Phase.CLEARING:
                frozen = replace(job, phase=Phase.FROZEN, seats=(), running_since_s=None)
                self.put_job(self._at_rate(frozen, 0.0))
            case Phase.ENDING:
                self.put_job(replace(job, phase=Phase.SUCCEEDED, seats=()))
            case _:
                return

    def happen(self) -> None:
        words = "submit submit submit submit end end lose pause resume drain undrain silent notice move flaky after"
        match self.dice.choice(words.split()):
            case "submit":
                self.put_job(self._fresh())
            case "end":
                self._change(Phase.RUNNING, phase=Phase.ENDING)
            case "lose":
                self._change(Phase.RUNNING, phase=Phase.CLEARING)
            case "pause":
                self._change(self.dice.choice([Phase.RUNNING, Phase.WAITING]), paused=True)
            case "resume":
                for job in [one for one in self.jobs.values() if one.paused]:
                    self.put_job(self._at_rate(replace(job, paused=False), job.account.rate if job.account else 0.0))
            case "move":
                self._change(Phase.RUNNING, move_asked=True)
            case "after":
                for job in [one for one in self.jobs.values() if one.after]:
                    self.put_job(self._at_rate(replace(job, after=()), 0.0))
            case word:
                node = self.dice.choice(list(self.nodes.values()))
                changes = {
                    "drain": {"draining": True},
                    "undrain": {"draining": False, "ready": True, "leaves_s": None},
                    "silent": {"ready": False},
                    "notice": {"leaves_s": self.now_s + 120},
                    "flaky": {"flaky_until_s": self.now_s + 300},
                }
                self.put_node(replace(node, **changes[word]))

    def _fresh(self) -> JobView:
        self.count += 1
        ranks = self.dice.choice([1, 1, 2, 2, 4, 4, 6, 8, 12])
        name = JobId(f"j{self.count:05}")
        return JobView(
            name,
            name,
            self.dice.choice(TIER_ORDER),
            self.dice.choice(["lab-a", "lab-b", "free", "tight", "undeclared"]),
            ranks,
            Phase.WAITING,
            self.now_s,
            account=fraction.opened(self.now_s, ranks),
            freeze_cost_s=self.dice.choice([1.0, 5.0, 20.0]),
            min_devices=self.dice.choice([0, 0, max(1, ranks // 4)]),
            speeds=self.dice.choice([(), (), (("fast", 1.0),), (("fast", 1.0), ("", 0.5))]),
            regions=self.dice.choice([(), (), (), ("r0",)]),
            together=self.dice.choice([Together.ANY, Together.ANY, Together.NODE, Together.DOMAIN]),
            after=self.dice.choice([(), (), (), (JobId("x"),)]),
            deadline_s=self.dice.choice([None, None, self.now_s + 900]),
        )

    def _change(self, phase_now: Phase, /, **more: object) -> None:
        there = [job for job in self.jobs.values() if job.phase is phase_now]
        if there:
            job = self.dice.choice(there)
            changed = replace(job, **more)
            stops = changed.phase is not Phase.RUNNING
            self.put_job(self._at_rate(changed, 0.0 if stops else job.account.rate if job.account else 0.0))


def seats_held(jobs: list[JobView]) -> dict[Seat, JobId]:
    """Every seat that is in use, and by whom; fails where two jobs have the same."""
    held: dict[Seat, JobId] = {}
    for job in jobs:
        if job.phase in HOLDS_SEATS:
            for seat in {*job.seats, *job.going_to}:
                assert held.setdefault(seat, job.id) == job.id, f"{job.id} and {held[seat]} on {seat}"
    return held


__all__ = ["Motion", "Tier", "seats_held"]
