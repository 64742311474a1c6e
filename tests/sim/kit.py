"""What the simulator's tests share: small traces, and a way to play them."""

from pathlib import Path

from ergosphere.core.model import Tier
from ergosphere.sim.desks import RivalDesk
from ergosphere.sim.engine import Run, Scenario, play
from ergosphere.sim.rivals.judge import Rival
from ergosphere.sim.works import Trace, Work
from ergosphere.system import SystemStopwatch

DATA = Path(__file__).resolve().parents[2] / "data"


def work(key: str, at_s: float, for_s: float, devices: int = 1, tier: Tier = Tier.STANDARD, **more) -> Work:
    return Work(key, at_s, for_s, devices, more.pop("least", devices), tier, **more)


def trace(*works: Work) -> Trace:
    return Trace("by hand", works)


def rival_run(scenario: Scenario, rival: Rival, *, together: bool = False) -> Run:
    return play(scenario, RivalDesk(rival, together=together), SystemStopwatch())


def mean_jct_s(run: Run) -> float:
    every = [one.ended_s - one.work.submit_s for one in run.world.ended]
    return sum(every) / len(every)
