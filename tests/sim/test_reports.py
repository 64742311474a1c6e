"""Reports: a table, CSV, JSON, and one page that needs nothing from anywhere."""

import csv
import io
import json
import re

from tests.sim.kit import trace, work

from ergosphere.sim.bound import bound
from ergosphere.sim.engine import Scenario
from ergosphere.sim.figures import figures
from ergosphere.sim.fleets import uniform
from ergosphere.sim.many import Task, run, seeded
from ergosphere.sim.recipes import Synthetic, synthetic
from ergosphere.sim.report import files
from ergosphere.sim.report.page import page, text
from ergosphere.sim.report.plots import EVERY
from ergosphere.sim.report.terminal import several

SCENARIO = Scenario(synthetic(Synthetic(devices=16, load=0.9, span_s=43_200.0)), uniform(2))
RUNS = [run(Task(name, SCENARIO)) for name in ("ergosphere", "fifo")]
FIGURES = [figures(one) for one in RUNS]
BEST = bound(SCENARIO.trace, 16)


def test_the_figures_agree_with_what_happened() -> None:
    alone = figures(run(Task("fifo", Scenario(trace(work("a", 0, 7_200, 8), work("b", 0, 7_200, 8)), uniform(1)))))
    assert (alone.jct_p50_s, alone.jct_p99_s) == (14_460.0, 14_460.0)
    assert alone.jct_mean_s == (7_230 + 14_460) / 2
    assert alone.wait_mean_s == 7_230 / 2
    assert alone.makespan_s == 14_460
    assert (alone.allocation, alone.standing_h) == (1.0, 2 * 8 * 30 / 3_600)


def test_the_page_holds_every_plot_and_fetches_nothing() -> None:
    made = page(RUNS, FIGURES, BEST)
    assert made.count("data:image/png;base64,") == len(EVERY) == 12
    assert re.findall(r"(?:src|href)=\"(?!data:)", made) == []
    assert "Promises kept" in made and "beside the upper bound" in made


def test_a_page_is_made_even_of_runs_in_which_nothing_happened() -> None:
    idle = [run(Task("fifo", Scenario(trace(work("a", 0, 1)), uniform(1))))]
    assert "data:image/png" in page(idle, [figures(one) for one in idle], None)


def test_the_table_names_policies_side_by_side() -> None:
    told = text(FIGURES, BEST)
    assert "ergosphere" in told and "FIFO with skip" in told
    assert "premium (promise 95%)" in told and "promised load" in told


def test_json_and_csv_say_the_same(tmp_path) -> None:
    files.write_json(FIGURES, BEST, tmp_path / "a.json")
    files.write_summary(FIGURES, tmp_path / "a.csv")
    files.write_jobs(RUNS, tmp_path / "jobs.csv")
    document = json.loads((tmp_path / "a.json").read_text())
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 2 * 3
    assert float(rows[0]["jct_mean_s"]) == document["runs"][0]["jct_mean_s"]
    jobs = list(csv.DictReader((tmp_path / "jobs.csv").open()))
    assert len(jobs) == 2 * len(SCENARIO.trace.works)
    assert all(float(one["ended_s"]) > float(one["submit_s"]) for one in jobs)


def test_many_seeds_are_told_as_a_median_and_its_range() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(several([figures(run(task)) for task in seeded(Task("fifo", SCENARIO), range(3))]))
    assert "3 seeds" in console.export_text()
