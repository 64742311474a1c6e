"""Quantities and names in words: sizes, spans of time, the nearest valid name. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
INDEXES_MAX: Final = 10_000  # of one array
_NAME_LENGTH_MAX: Final = 63  # characters, as wire.jobs.NAME_PATTERN has it


def did_you_mean(word: str, options: Iterable[str], otherwise: str = "") -> str:
    """A remedy that names the nearest option, or `otherwise`."""
    from ergosphere.core.suggest import nearest

    near = nearest(word, options)
    return f"did you mean {near}?" if near else otherwise


def bytes_text(count: int) -> str:
    """1536 -> `1.5 kB`; powers of ten, three digits at most."""
    size = float(count)
    for unit in _UNITS:
        if size < 999.5 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"


def bytes_count(text: str) -> int:
    """`1.5 GB`, `800MB`, `4096` -> bytes, in powers of ten. ValueError when it is none of these."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{text!r} is no number of bytes: write 500MB or 2GB")
    return int(float(match[1]) * 1000 ** ("kMGT".index(match[2]) + 1 if match[2] else 0))


def span_text(seconds: float | None) -> str:
    """3700 -> `1h01m`; two units at most, tenths only below ten seconds."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def indexes(text: str) -> tuple[int, ...]:
    """`0-3,7` as (0, 1, 2, 3, 7). Raises ValueError with the cause."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part.strip()!r} is no index and no range; write 0-9 or 1,3,5-8")
        low, high = int(first), int(last or first)
        if high < low or high - low >= INDEXES_MAX:
            raise ValueError(f"{part.strip()!r} does not go upwards, or has more than {INDEXES_MAX} indexes")
        found.extend(range(low, high + 1))
    return tuple(dict.fromkeys(found))


def numbers(sorted_numbers: Iterable[int]) -> str:
    """(0, 1, 2, 5) as `0-2, 5`: what `indexes` reads."""
    runs: list[list[int]] = []
    for number in sorted_numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def bounds(text: str) -> tuple[int, int]:
    """`2-5` as (2, 5), `3` as (3, 3). Raises ValueError with the cause."""
    low, dash, high = text.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise ValueError(f"{text!r} is no number and no range; write 3 or 2-5")
    return int(low), int(high or low)


def span_s(text: str) -> float:
    """`90`, `30s`, `5m`, `1h30m`, `500ms` -> seconds. ValueError when it is none of these."""
    text = text.strip()
    total, at = 0.0, 0
    for match in _SPAN.finditer(text):
        if match.start() != at:
            break
        unit = match[2] or ("s" if match.end() == len(text) and at == 0 else "")
        if not unit:
            break
        total += float(match[1]) * _SECONDS[unit]
        at = match.end()
    if not text or at != len(text):
        raise ValueError(f"{text!r} is no span of time: write 30s, 5m or 1h30m")
    return total


def plural(count: int, noun: str, many: str = "") -> str:
    """`1 rank`, `2 ranks`; irregular plurals are given."""
    return f"{count} {noun}" if count == 1 else f"{count} {many or noun + 's'}"


def shortened(text: str, width: int) -> str:
    """At most `width` characters, the last one an ellipsis where something was cut."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def job_name(command: tuple[str, ...]) -> str:
    """A name for a job whose owner gave none: its script's, else its program's."""
    script = next((a for a in command[1:] if re.search(r"\.(py|sh|bash|R|jl|js|pl|rb)$", a)), None)
    if script is None and "-m" in command[:-1]:
        script = command[command.index("-m") + 1]
    base = (script or command[0]).rsplit("/", 1)[-1]
    base = re.sub(r"\.(py|sh|bash|R|jl|js|pl|rb)$", "", base)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-._")
    return name[:_NAME_LENGTH_MAX] or "job"
