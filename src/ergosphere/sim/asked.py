"""From what was asked for, files and numbers, to a scenario."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ergosphere.core.policy.rules import Rules
from ergosphere.sim import costs as cost_files
from ergosphere.sim import fleet_files, fleets, reading, services, speeds
from ergosphere.sim.costs import NOTHING, Costs
from ergosphere.sim.engine import Scenario, check
from ergosphere.sim.faulty import Fault, Faulty
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.recipes import Synthetic, synthetic
from ergosphere.sim.services import Deployed
from ergosphere.sim.trouble import Trouble
from ergosphere.sim.works import Trace, rigid

MADE_UP_DEVICES: Final = 64
REPLICAS_MAX: Final = 10_000
_REPLICAS: Final = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """`trace` None: a made-up week. `fleet` "": one made for the trace, with its mean demand ÷ `load`."""

    trace: Path | None
    fleet: str = ""
    load: float = fleets.LOAD
    seed: int = 0
    rules: Path | None = None
    costs: Path | None = None
    free: bool = False
    sort: bool = False
    rigid: bool = False
    limit: int = 0
    trouble: Trouble = field(default_factory=Trouble)
    period_s: float = 0.0
    requests: Path | None = None
    replicas: str = "1..8"
    request_scale: float = 1.0
    speeds: Path | None = None


def prepare(asked: Asked) -> Scenario:
    """Raises Faulty for whatever cannot be meant, and for jobs that the fleet can never hold."""
    _check_together(asked)
    trace = _trace(asked)
    fleet = _fleet(asked, trace)
    if asked.speeds is not None:
        trace = speeds.measured(trace, speeds.read(asked.speeds), fleet)
    scenario = Scenario(
        trace,
        fleet,
        _costs(asked),
        _rules(asked),
        asked.trouble,
        seed=asked.seed,
        period_s=asked.period_s,
        services=_services(asked, trace),
    )
    check(scenario)
    return scenario


def _check_together(asked: Asked) -> None:
    """What would be ignored beside something else is refused."""
    plain = Asked(None)
    if asked.free and asked.costs is not None:
        raise Faulty("--free", [Fault(0, "nothing costs anything, so --costs would be ignored", "name one of the two")])
    if asked.requests is None and (asked.replicas, asked.request_scale) != (plain.replicas, plain.request_scale):
        words = "--replicas and --request-scale are about services, and there are none"
        remedy = "name their requests: --requests data/azure_llm2023_requests.csv.gz"
        raise Faulty("--requests", [Fault(0, words, remedy)])
    if asked.trace is None and asked.speeds is not None:
        words = "a made-up week names no models, so --speeds would be ignored"
        raise Faulty("--speeds", [Fault(0, words, "name a trace that has a column model")])


def _trace(asked: Asked) -> Trace:
    if asked.trace is None:
        made = synthetic(Synthetic(devices=MADE_UP_DEVICES, load=asked.load, seed=asked.seed))
        works = made.works[: asked.limit] if asked.limit else made.works
        return replace(made, works=rigid(works) if asked.rigid else works)
    wish = reading.Wish(seed=asked.seed, ordered=not asked.sort, rigid=asked.rigid, limit=asked.limit)
    return reading.read(asked.trace, wish)


def _services(asked: Asked, trace: Trace) -> tuple[Deployed, ...]:
    if asked.requests is None:
        return ()
    bounds = _REPLICAS.fullmatch(asked.replicas)
    least, most = (int(bounds[1]), int(bounds[2])) if bounds else (1, 0)
    if not 0 <= least <= most <= REPLICAS_MAX:
        words = f"{asked.replicas!r} is no range of replicas"
        raise Faulty("--replicas", [Fault(0, words, f"fewest..most, as in 1..8, up to {REPLICAS_MAX:,}")])
    demands = services.read(asked.requests)
    return tuple(services.deploy(one, least, most, 1, asked.request_scale, trace.span_s) for one in demands)


def _fleet(asked: Asked, trace: Trace) -> Fleet:
    if asked.fleet:
        return fleet_files.read(asked.fleet)
    if asked.trace is None:
        return fleets.uniform(MADE_UP_DEVICES // fleets.NODE_DEVICES)
    return fleets.made_for(trace, asked.load)


def _costs(asked: Asked) -> Costs:
    if asked.free:
        return NOTHING
    return cost_files.read(asked.costs) if asked.costs else Costs()


def _rules(asked: Asked) -> Rules:
    if asked.rules is None:
        return Rules()
    from ergosphere.sim.rule_files import read

    return read(asked.rules)
