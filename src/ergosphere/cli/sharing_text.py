"""How a job's ranks share devices, in words. Figures are those that the ranks themselves have told."""

from __future__ import annotations

from collections.abc import Iterable

from ergosphere.cli.words import bytes_text, plural
from ergosphere.wire.jobs import JobDetail, RankSharing


def devices(job: JobDetail) -> str:
    """`1, each shared by 4 ranks; 1 to 4 are possible; 2 resizes`; empty for a job of one rank."""
    if job.ranks == 1:
        return ""
    shared = f", each shared by {job.ranks // job.devices} ranks" if 0 < job.devices < job.ranks else ""
    parts = [f"{job.devices}{shared}"] if job.devices else []
    parts.append(f"{job.min_devices} to {job.ranks} are possible" if job.min_devices < job.ranks else "never fewer")
    parts += [f"its owner asked for {job.devices_asked}"] if job.devices_asked else []
    return "; ".join([*parts, plural(job.resizes, "resize")])


def sharing(job: JobDetail) -> str:
    """What is held once, how many optimizer steps were shared, what the checks cost; empty while nobody has told."""
    told = job.sharing
    if not told:
        return ""
    states = ", ".join(f"{_count(told, state)} {state}" for state in dict.fromkeys(one.state for one in told))
    parts = [states, f"sums {'in rank order' if all(one.exact for one in told) else 'as the program has them'}"]
    spliced = [one for one in told if one.state == "spliced"]
    if spliced:
        one = max(spliced, key=lambda each: each.shared_bytes)
        parts.append(f"{bytes_text(one.shared_bytes)} held once on a device")
        parts.append(f"{one.steps_shared} optimizer steps shared, {one.steps_alone} not")
        each = "each step" if one.check_interval_steps <= 1 else f"every {one.check_interval_steps} steps"
        parts.append(f"checked {each} for {one.check_ms:.1f} ms")
    if any(one.turn_ms for one in told):
        parts.append(f"a turn is waited for {max(one.turn_ms for one in told):.0f} ms")
    return "; ".join(parts)


def reasons(job: JobDetail) -> Iterable[str]:
    """Why ranks do not share, each reason once with the ranks that gave it."""
    why = dict.fromkeys(one.why for one in job.sharing if one.why)
    for text in why:
        ranks = [str(one.rank) for one in job.sharing if one.why == text]
        yield f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(ranks)}: {text}"


def _count(told: Iterable[RankSharing], state: str) -> int:
    return sum(one.state == state for one in told)
