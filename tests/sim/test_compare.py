"""What the comparison calls dominated, and the gaps it prints: both can come out either way."""

from dataclasses import replace

import pytest
from bench import doc_tables
from bench.compare import Row, dominated, gaps, verdict
from tests.sim.kit import trace, work

from ergosphere.core.model import Tier
from ergosphere.sim.bound import bound
from ergosphere.sim.engine import Scenario
from ergosphere.sim.figures import Figures, figures
from ergosphere.sim.fleets import uniform
from ergosphere.sim.many import Task, run

PLAYED = Scenario(trace(*(work(f"j{n}", 0, 3_600, 8, Tier.PREMIUM) for n in range(3))), uniform(1))
OURS = figures(run(Task("ergosphere", PLAYED)))
KEPT = replace(OURS, tiers=tuple(replace(one, attainment=1.0) for one in OURS.tiers))


def rival(ours: Figures, *, faster: float = 0.9, kept: float = 1.0, policy: str = "FIFO with skip") -> Figures:
    tiers = tuple(replace(one, attainment=kept) for one in ours.tiers)
    return replace(
        ours, policy=policy, jct_mean_s=ours.jct_mean_s * faster, jct_p99_s=ours.jct_p99_s * faster, tiers=tiers
    )


@pytest.mark.parametrize(
    ("other", "dominates"),
    [
        (rival(KEPT), True),  # we keep every promise, and so does it, sooner
        (rival(KEPT, kept=0.99), False),
        (rival(KEPT, faster=1.0), False),
        (replace(rival(KEPT), jct_p99_s=KEPT.jct_p99_s), False),
        (rival(KEPT, policy="SRTF (oracle)"), False),  # it knows the future
    ],
)
def test_who_is_faster_and_keeps_no_fewer_promises_dominates(other, dominates) -> None:
    assert dominated(KEPT, [other]) == ([other.policy] if dominates else [])


def test_attainment_weighs_the_tiers_by_what_they_are_entitled_to() -> None:
    premium, standard, basic = KEPT.tiers
    tiers = (replace(premium, entitled_h=3.0, attainment=1.0), replace(standard, entitled_h=1.0, attainment=0.5), basic)
    assert replace(KEPT, tiers=tiers).attainment == pytest.approx(0.875)


def test_the_gap_to_the_best_rival_is_told_per_figure() -> None:
    told = gaps(KEPT, [rival(KEPT, faster=0.5, kept=0.2), rival(KEPT, faster=2.0, kept=0.9, policy="priority")])
    assert "mean JCT 2.00 × that of FIFO with skip" in told and "p99 JCT 2.00 × that of FIFO with skip" in told
    assert "all promises kept +10.00 points to priority" in told


def test_the_tables_of_the_page_are_written_between_their_marks(tmp_path) -> None:
    best = bound(PLAYED.trace, 8)
    rows = [Row("by hand", 1.0, KEPT, best), Row("by hand", 1.0, rival(KEPT), best), Row("by hand", 0.8, KEPT, best)]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{doc_tables.BEGINS}\nold\n{doc_tables.ENDS}\nafter\n")
    doc_tables.write(rows, page)
    once = page.read_text()
    doc_tables.write(rows, page)
    assert page.read_text() == once and "old" not in once and once.startswith("before") and once.endswith("after\n")
    assert once.count("| FIFO with skip |") == 1 and once.count("| by hand |") == 2
    assert verdict(rows[:2])[-1] == "dominated by: FIFO with skip" and "- dominated by: FIFO with skip" in once
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no marks"):
        doc_tables.write(rows, page)
