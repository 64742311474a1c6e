"""Inference services in a simulation: requests from a trace, the replicas they ask for, and how often too few ran.

A replica is a job that never ends; whether it is wanted follows the requests through `core.policy.services`, as in the
service itself. Training yields to what is wanted and takes back what is not.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from ergosphere.core.model import Tier
from ergosphere.core.policy.services import Scaling, Service, scaled
from ergosphere.sim.faulty import Faults
from ergosphere.sim.works import Work

WINDOW_S: Final = 60.0  # requests are counted by the minute, as autoscalers do
PROMPT_TOKEN_S: Final = 0.0002  # a 70-billion-parameter model on one node: 5,000 prompt tokens a second,
OUTPUT_TOKEN_S: Final = 0.02  # 50 output tokens a second for each request
CONCURRENCY: Final = 16  # requests that a replica serves at once
LATENCY: Final = 1.5  # times the service time of an idle replica: the wish where none is named
COLUMNS: Final = ("svc", "t_s", "prompt_tokens", "output_tokens")
FOREVER_S: Final = 1e15  # the work of a replica: it does not end


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests of one service: a second, window by window, and what one takes on an idle replica."""

    name: str
    rates: tuple[float, ...]
    service_s: float


@dataclass(frozen=True, slots=True)
class Deployed:
    """A service in a scenario. `wishes`: when how many replicas are wanted."""

    name: str
    replicas: tuple[Work, ...]
    wishes: tuple[tuple[float, int], ...]


@dataclass(slots=True)
class Level:
    """What became of one service, in replica-seconds."""

    wanted_s: float = 0.0
    served_s: float = 0.0
    changes: int = 0

    @property
    def kept(self) -> float:
        """The share of the wanted replica-time in which the replica ran."""
        return self.served_s / self.wanted_s if self.wanted_s else 1.0


def read(path: Path) -> tuple[Demand, ...]:
    """Requests by service from svc,t_s,prompt_tokens,output_tokens (the Azure LLM trace's shape). Raises Faulty."""
    faults = Faults(str(path))
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        faults.add(0, f"cannot be read: {error}", "data/azure_llm2023_requests.csv.gz comes with us")
        faults.check()
    reader = csv.DictReader(io.StringIO(text))
    lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if lacking:
        faults.add(1, f"no column {', '.join(lacking)}", f"name them in the first line: {','.join(COLUMNS)}")
    faults.check()
    found: dict[str, list[tuple[float, float]]] = {}
    for row in reader:
        try:
            at_s, prompt, output = float(row["t_s"]), int(row["prompt_tokens"]), int(row["output_tokens"])
        except (TypeError, ValueError):
            faults.add(reader.line_num, "holds no request", "seconds and whole numbers of tokens")
            continue
        if not (0 <= at_s < 1e9 and prompt >= 0 and output >= 0):
            faults.add(reader.line_num, f"a request at {row['t_s']} s cannot be meant", "seconds from 0 on")
            continue
        found.setdefault(row["svc"], []).append((at_s, prompt * PROMPT_TOKEN_S + output * OUTPUT_TOKEN_S))
    if not found:
        faults.add(0, "holds no request", "is it the right file?")
    faults.check()
    return tuple(_demand(name, requests) for name, requests in sorted(found.items()))


def _demand(name: str, requests: Sequence[tuple[float, float]]) -> Demand:
    counts = [0] * (int(max(at_s for at_s, _ in requests) // WINDOW_S) + 1)
    for at_s, _ in requests:
        counts[int(at_s // WINDOW_S)] += 1
    mean_s = sum(took_s for _, took_s in requests) / len(requests)
    return Demand(name, tuple(count / WINDOW_S for count in counts), mean_s)


def deploy(
    demand: Demand, least: int, most: int, devices: int = 1, scale: float = 1.0, until_s: float = 0.0
) -> Deployed:
    """Replicas of `devices` each, `least` to `most`, under `scale` times the requests, repeated until `until_s`."""
    service = Service(least, most, demand.service_s * LATENCY, demand.service_s, CONCURRENCY)
    state = Scaling(least)
    wishes: list[tuple[float, int]] = [(0.0, least)]
    windows = max(len(demand.rates), int(until_s // WINDOW_S))
    for number in range(windows):
        at_s = (number + 1) * WINDOW_S  # what a window brought is known at its end
        state = scaled(state, service, scale * demand.rates[number % len(demand.rates)], at_s)
        if state.wanted != wishes[-1][1]:
            wishes.append((at_s, state.wanted))
    replicas = tuple(
        Work(f"{demand.name}-{n}", 0.0, FOREVER_S, devices, devices, Tier.PREMIUM, demand.name, service=demand.name)
        for n in range(most)
    )
    return Deployed(demand.name, replicas, tuple(wishes))


def level(deployed: Deployed, spans: Sequence[Sequence[tuple[float, float, float]]], until_s: float) -> Level:
    """How much of what was wanted ran: `spans` of each replica, in their order."""
    told = Level(changes=len(deployed.wishes) - 1)
    edges = [*deployed.wishes, (until_s, 0)]
    for (from_s, count), (to_s, _) in pairwise(edges):
        for replica in spans[:count]:
            told.wanted_s += max(0.0, min(to_s, until_s) - from_s)
            told.served_s += sum(max(0.0, min(end, to_s, until_s) - max(begin, from_s)) for begin, end, _ in replica)
    return told
