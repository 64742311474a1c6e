"""From the rows of a trace to works; whatever cannot be meant is noted with its line and a remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from ergosphere.core.model import Tier
from ergosphere.sim.faulty import Faults
from ergosphere.sim.tiers import tier_of
from ergosphere.sim.works import Work, smallest_part

DURATION_S_MAX: Final = 400 * 86_400.0  # the longest job of any public trace ran for 60 days
DEVICES_MAX: Final = 1_000_000  # the largest fleet we simulate
ARRAY_MAX: Final = 10_000  # jobs of one array, as in the service
MEMORY_GIB_MAX: Final = 100_000.0
SPEED_MAX: Final = 1e6  # of a device type beside another
EPOCH_MS_MIN: Final = 1e11  # seconds since the epoch reach this in the year 5138: below are seconds, above milliseconds

_NO_DATE: Final = frozenset({"", "none", "null", "nan", "na"})
_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"([0-9.]+)\s*(ms|s|min|h|d)")


class Rows:
    """Turns rows into works and notes what is wrong with each."""

    def __init__(
        self, at: Mapping[str, int], width: int, faults: Faults, *, seed: int = 0, rigid: bool = False
    ) -> None:
        self.at = at
        self.width = width
        self.faults = faults
        self.seed = seed
        self.rigid = rigid
        self.bare = True  # no duration had a unit
        self.arrays: dict[str, int] = {}  # by id: how many jobs
        self.without_device = 0
        self.unfinished = 0

    def notes(self) -> tuple[str, ...]:
        told = []
        if self.without_device:
            told.append(f"{self.without_device} jobs without a device were left out")
        if self.unfinished:
            told.append(f"{self.unfinished} jobs that never ran or never ended were left out")
        return tuple(told)

    def works(self, line: int, row: Sequence[str]) -> list[Work]:
        """The job of a row, or the jobs of its array; [] where there is nothing to play."""
        if len(row) != self.width:
            short = len(row) < self.width
            remedy = "is the file cut off?" if short else "put fields that hold commas in quotation marks"
            self.faults.add(line, f"{len(row)} fields instead of {self.width}", remedy)
            return []
        devices = self._devices(line, row)
        times = self._times(line, row) if devices else None
        if devices is None or times is None:
            return []
        work = self._work(line, row, devices, times)
        count = self._whole(line, row, "array", 1, ARRAY_MAX)
        if count is None:
            return [work]
        self.arrays[work.id] = count
        return [replace(work, id=f"{work.id}.{index}") for index in range(count)]

    def _work(self, line: int, row: Sequence[str], devices: int, times: tuple[float, float]) -> Work:
        submit_s, duration_s = times
        key = self._name(line, row, "id")
        if not key:
            self.faults.add(line, "the job has no id", "give every job an id of its own")
        return Work(
            id=key,
            submit_s=submit_s,
            duration_s=duration_s,
            devices=devices,
            devices_min=self._least(line, row, devices),
            tier=self._tier(line, row, key),
            project=self._name(line, row, "project") or "default",
            speeds=self._speeds(line, row),
            after=self._list(row, "after"),
            model=self._word(row, "model"),
            deadline_s=self._deadline(line, row, submit_s),
            regions=self._list(row, "regions"),
            data_region=self._name(line, row, "data_region"),
            memory_gib=self._memory_gib(line, row),
            tier_named=bool(self._word(row, "tier")),
            line=line,
        )

    def _name(self, line: int, row: Sequence[str], meaning: str) -> str:
        text = self._word(row, meaning)
        if not text.isprintable():
            self.faults.add(line, f"{text!r} is no {meaning}", "letters, digits and signs that can be printed")
        return text

    def _whole(self, line: int, row: Sequence[str], meaning: str, least: int, most: int) -> int | None:
        """None where nothing is said."""
        text = self._word(row, meaning)
        number = _number(text)
        if not text or (number is not None and number.is_integer() and least <= number <= most):
            return int(number) if number is not None else None
        self.faults.add(line, f"{meaning}: {text!r} cannot be meant", f"a whole number from {least:,} to {most:,}")
        return None

    def _memory_gib(self, line: int, row: Sequence[str]) -> float:
        text = self._word(row, "memory_gib")
        number = _number(text) if text else 0.0
        if number is not None and 0 <= number <= MEMORY_GIB_MAX:
            return number
        self.faults.add(line, f"{text!r} is no memory of a device", f"GiB from 0 to {MEMORY_GIB_MAX:,.0f}")
        return 0.0

    def _speeds(self, line: int, row: Sequence[str]) -> tuple[tuple[str, float], ...]:
        """`v100=1|k80=0.2`, or types alone."""
        told: dict[str, float] = {}
        for one in self._list(row, "speeds") or self._list(row, "kinds"):
            kind, _, text = one.replace(":", "=").partition("=")
            speed = _number(text) if text else 1.0
            if not kind.strip() or kind in told or speed is None or not 0 < speed <= SPEED_MAX:
                self.faults.add(line, f"{one!r} is no device type with its speed", "v100=1|k80=0.2, each type once")
            else:
                told[kind.strip()] = speed
        return tuple(told.items())

    def _word(self, row: Sequence[str], meaning: str) -> str:
        position = self.at.get(meaning)
        return row[position].strip() if position is not None else ""

    def _list(self, row: Sequence[str], meaning: str) -> tuple[str, ...]:
        return tuple(word for word in self._word(row, meaning).replace(";", "|").split("|") if word)

    def _devices(self, line: int, row: Sequence[str]) -> int | None:
        """None where there is nothing to simulate. A share of a device counts as a whole one."""
        text = self._word(row, "devices")
        number = _number(text)
        if number is None or number != math.floor(number) or not -1 < number <= DEVICES_MAX:
            remedy = f"a whole number from 1 to {DEVICES_MAX:,}"
            self.faults.add(line, f"{text!r} is no number of devices", remedy)
            return None
        if number == 0:
            self.without_device += 1
            return None
        return int(number)

    def _times(self, line: int, row: Sequence[str]) -> tuple[float, float] | None:
        submit_s = self._time(line, self._word(row, "submit"), "submission")
        if submit_s is None:
            return None
        text = self._word(row, "duration")
        if text:
            duration_s = self._span_s(text)
        else:
            duration_s = self._between(row, submit_s)
        if duration_s is None and not text:
            self.unfinished += 1
            return None
        if duration_s is None or duration_s < 0:
            told = repr(text) if text else f"from its start to its end, {duration_s:g} s,"
            self.faults.add(line, f"{told} is no duration", "seconds, 0 or more")
            return None
        if duration_s > DURATION_S_MAX:
            days = duration_s / 86_400
            remedy = "durations are in seconds: divide milliseconds by 1,000"
            self.faults.add(line, f"a duration of {days:,.0f} days cannot be meant", remedy)
            return None
        if duration_s == 0:
            self.unfinished += 1
            return None
        return submit_s, duration_s

    def _span_s(self, text: str) -> float | None:
        """Seconds, or a number with its unit."""
        span = _SPAN.fullmatch(text)
        if span is None:
            return _number(text)
        self.bare = False
        number = _number(span[1])
        return None if number is None else number * _UNITS[span[2]]

    def _between(self, row: Sequence[str], submit_s: float) -> float | None:
        end = _moment(self._word(row, "end"))
        start = _moment(self._word(row, "start"))
        if end is None:
            return None
        return end - (submit_s if start is None else start)

    def _time(self, line: int, text: str, what: str) -> float | None:
        at_s = _moment(text)
        if at_s is None:
            self.faults.add(line, f"{text!r} is no time of {what}", "seconds, or a date as in 2017-10-03 10:30:41")
        elif at_s < 0:
            self.faults.add(line, f"a {what} at {at_s:g} s lies before the trace", "times count from 0")
        elif at_s > EPOCH_MS_MIN:
            self.faults.add(line, f"a {what} at {at_s:g} cannot be seconds", "divide milliseconds by 1,000")
        else:
            return at_s
        return None

    def _least(self, line: int, row: Sequence[str], devices: int) -> int:
        text = self._word(row, "least")
        if not text:
            return devices if self.rigid else smallest_part(devices)
        number = _number(text)
        if number is None or not number.is_integer() or not 1 <= number <= devices or devices % int(number):
            remedy = "it must divide the devices of the job"
            self.faults.add(line, f"{text!r} devices at least, of {devices}", remedy)
            return devices
        return int(number)

    def _tier(self, line: int, row: Sequence[str], key: str) -> Tier:
        text = self._word(row, "tier").lower()
        if not text:
            return tier_of(key, self.seed)
        if text in list(Tier):
            return Tier(text)
        self.faults.add(line, f"{text!r} is no tier", f"one of {', '.join(Tier)}")
        return Tier.BASIC

    def _deadline(self, line: int, row: Sequence[str], submit_s: float) -> float | None:
        text = self._word(row, "deadline")
        deadline_s = self._time(line, text, "deadline") if text else None
        if deadline_s is not None and deadline_s < submit_s:
            words = f"a deadline at {deadline_s:g} s lies before the submission at {submit_s:g} s"
            self.faults.add(line, words, "deadlines count like submissions, from the same moment")
        return deadline_s


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _moment(text: str) -> float | None:
    """Seconds from a number or a date (taken as UTC); None where there is nothing."""
    number = _number(text)
    if number is not None or text.strip().lower() in _NO_DATE:
        return number
    try:
        moment = datetime.fromisoformat(text.strip().removesuffix(" UTC").removesuffix(" PST").removesuffix(" PDT"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
