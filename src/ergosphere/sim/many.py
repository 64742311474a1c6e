"""Many runs on all cores: seeds, policies, loads. Each run is a process's own; figures come back, or whole runs."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from ergosphere.sim import policies
from ergosphere.sim.engine import Run, Scenario, play
from ergosphere.sim.figures import Figures, figures
from ergosphere.sim.recipes import tiered
from ergosphere.system import SystemStopwatch

PARTS: Final = 100  # of one run, as progress is told
LOOK_S: Final = 0.5  # how often the workers' progress is looked at

Told = Callable[[int, int], None]  # done, of
Share = Callable[[float], None]  # of one run, 0 to 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Task:
    """One policy in one scenario."""

    policy: str
    scenario: Scenario


Work = Callable[[Task, Share], T]


def run(task: Task, told: Share | None = None) -> Run:
    """Play it here. `told` hears of the share of its works that have ended."""
    with _quiet_collector():
        return play(task.scenario, policies.desk(task.policy, task.scenario), SystemStopwatch(), told)


def measure(task: Task, told: Share | None = None) -> Figures:
    """Play it here and keep the figures alone."""
    return figures(run(task, told))


def memory_bytes() -> int:
    """The most memory that this process, or the largest of its children, ever held."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(own.ru_maxrss, children.ru_maxrss) * 1024


def seeded(task: Task, seeds: Sequence[int]) -> list[Task]:
    """The task once a seed: other tiers, other trouble."""
    return [
        replace(task, scenario=replace(task.scenario, seed=seed, trace=tiered(task.scenario.trace, seed)))
        for seed in seeds
    ]


def on_all_cores(work: Work[T], tasks: Sequence[Task], told: Told | None = None, cores: int = 0) -> list[T]:
    """The results in the order of the tasks. With one core or one task it stays in this process."""
    workers = min(len(tasks), cores or len(os.sched_getaffinity(0)))
    if workers <= 1:
        return list(_one_by_one(work, tasks, told))
    context = multiprocessing.get_context("fork")
    shares = context.Array("d", len(tasks), lock=False)  # how far each is; a worker writes its own alone
    with ProcessPoolExecutor(workers, context, _share_with, (shares,)) as pool:
        pending = [pool.submit(_told_by_number, work, number, task) for number, task in enumerate(tasks)]
        left = set(pending)
        while left:
            done, left = wait(left, timeout=LOOK_S if told is not None else None, return_when=FIRST_COMPLETED)
            for one in done:
                one.result()  # a failure ends the waiting for the others
            if told is not None:
                told(int(sum(shares) * PARTS), len(tasks) * PARTS)
        return [one.result() for one in pending]


_shares: list[Any] = []  # in a worker: where it writes how far it is


def _share_with(shares: Any) -> None:
    _shares[:] = [shares]


def _told_by_number(work: Work[T], number: int, task: Task) -> T:
    def tell(share: float) -> None:
        _shares[0][number] = share

    found = work(task, tell)
    tell(1.0)
    return found


def _one_by_one(work: Work[T], tasks: Sequence[Task], told: Told | None) -> Iterator[T]:
    ended = 0

    def tell(share: float) -> None:
        if told is not None:
            told(int((ended + share) * PARTS), len(tasks) * PARTS)

    for task in tasks:
        found = work(task, tell)
        ended += 1
        tell(0.0)
        yield found


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """A run makes millions of values and no cycles: looking for those costs a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
