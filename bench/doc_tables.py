"""The tables of docs/simulator.md, written between two marks by `python -m bench.compare --docs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bench.compare import Row

BEGINS: Final = "<!-- tables: python -m bench.compare --docs -->"
ENDS: Final = "<!-- end of the tables -->"
LOAD: Final = 1.0  # at which every policy is shown; ours at all loads
COLUMNS: Final = (
    "policy", "JCT mean, s", "÷ bound", "JCT p99, s", "premium kept", "standard kept", "deficit, device-h", "allocated",
    "pauses a job-day", "device-h they cost", "device-h lost",
)  # fmt: skip
OURS: Final = ("trace", "load", "JCT mean ÷ bound", "premium kept", "standard kept", "allocated", "pauses a job-day")


def write(rows: Sequence[Row], page: Path) -> None:
    """Put the tables of `rows` into a page that has the two marks."""
    text = page.read_text()
    before, begins, rest = text.partition(BEGINS)
    _, ends, after = rest.partition(ENDS)
    if not (begins and ends):
        raise ValueError(f"{page} has no marks {BEGINS} and {ENDS}")
    page.write_text(f"{before}{BEGINS}\n{tables(rows)}\n{ENDS}{after}")


def tables(rows: Sequence[Row]) -> str:
    from bench.compare import verdict

    parts = []
    for case in dict.fromkeys(row.case for row in rows):
        group = [row for row in rows if row.case == case and row.load == LOAD]
        if group:
            first = group[0].figures
            title = f"**{case}, load {LOAD:.1f}: {first.jobs:,} jobs on {first.devices:,} devices**"
            listed = [_policy(row) for row in group]
            parts += [title, _table(COLUMNS, listed), *(f"- {line}" for line in verdict(group))]
    listed = [_ours(row) for row in rows if row.figures.policy == rows[0].figures.policy]
    parts += ["**Our policy at other loads**", _table(OURS, listed)]
    return "\n" + "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("|\n- ", "|\n\n- ") + "\n"


def _policy(row: Row) -> tuple[str, ...]:
    one = row.figures
    return (
        one.policy,
        f"{one.jct_mean_s:,.0f}",
        f"{one.jct_mean_s / row.best.jct_s:.2f}",
        f"{one.jct_p99_s:,.0f}",
        *(f"{100 * tier.attainment:.2f} %" for tier in one.tiers[:2]),
        f"{sum(tier.deficit_h for tier in one.tiers):,.0f}",
        f"{100 * one.allocation:.1f} %",
        f"{one.pauses_per_job_day:.2f}",
        f"{one.standing_h:,.0f}",
        f"{one.lost_h:,.0f}",
    )


def _ours(row: Row) -> tuple[str, ...]:
    one = row.figures
    return (
        row.case,
        f"{row.load:.1f}" if row.load else "own",
        f"{one.jct_mean_s / row.best.jct_s:.2f}",
        *(f"{100 * tier.attainment:.2f} %" for tier in one.tiers[:2]),
        f"{100 * one.allocation:.1f} %",
        f"{one.pauses_per_job_day:.2f}",
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
