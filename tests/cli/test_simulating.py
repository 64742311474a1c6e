"""`ergo sim` as it is typed: answers, files, and what it says to what cannot be meant."""

import csv
import json
from pathlib import Path

import pytest

from ergosphere.cli.main import main

DATA = Path(__file__).resolve().parents[2] / "data"


def typed(capsys, *words):
    code = main(["sim", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_trace_is_played_and_told_for_machines(capsys, tmp_path) -> None:
    page, folder = tmp_path / "report.html", tmp_path / "csv"
    code, out, err = typed(
        capsys, "--trace", str(DATA / "common_T64.csv"), "--limit", "60", "--fleet", "8x8",
        "--policy", "ergosphere,fifo",
        "--html", str(page), "--csv", str(folder), "-o", "json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    assert [one["policy"] for one in document["runs"]] == ["ergosphere", "FIFO with skip"]
    assert all(one["ended"] == 60 for one in document["runs"])
    assert document["bound"]["jct_mean_s"] <= min(one["jct_mean_s"] for one in document["runs"])
    assert page.read_text().startswith("<!doctype html>")
    assert {one.name for one in folder.iterdir()} == {"summary.csv", "jobs.csv"}


def test_without_a_fleet_one_is_made_for_the_mean_demand(capsys) -> None:
    code, out, _ = typed(capsys, "--trace", str(DATA / "common_T64.csv"), "--policy", "fifo", "-o", "json")
    assert code == 0
    assert json.loads(out)["runs"][0]["devices"] == 80, "63 ÷ 0.8, in whole nodes"


def test_a_made_up_week_with_many_seeds_is_told_as_a_range(capsys) -> None:
    code, out, _ = typed(capsys, "--policy", "fifo", "--seeds", "2")
    assert code == 0
    assert "2 seeds" in out


def test_many_seeds_write_what_was_asked_for(capsys, tmp_path) -> None:
    page, folder = tmp_path / "report.html", tmp_path / "csv"
    code, out, err = typed(
        capsys, "--policy", "fifo,tiresias", "--seeds", "2", "--limit", "30", "--bound",
        "--html", str(page), "--csv", str(folder), "-o", "json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    assert [(one["policy"][:4], one["seed"], one["ended"]) for one in document["runs"]] == [
        ("FIFO", 0, 30), ("FIFO", 1, 30), ("Tire", 0, 30), ("Tire", 1, 30)
    ]  # fmt: skip
    assert document["bound"]["jct_mean_s"] > 0
    assert "All seeds" in page.read_text() and "Seed 0" in page.read_text()
    rows = list(csv.DictReader((folder / "jobs.csv").open()))
    assert len(rows) == 4 * 30 and {one["seed"] for one in rows} == {"0", "1"}


def test_tiers_that_a_trace_names_are_those_of_every_seed(capsys, tmp_path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("id,submit_s,duration_s,gpus,tier\n" + "".join(f"j{n},{n},60,1,premium\n" for n in range(20)))
    code, out, _ = typed(capsys, "--trace", str(trace), "--policy", "fifo", "--seeds", "3", "-o", "json")
    assert code == 0
    assert [[tier["jobs"] for tier in one["tiers"]] for one in json.loads(out)["runs"]] == [[20, 0, 0]] * 3


def test_a_traces_models_run_at_their_measured_speeds(capsys, tmp_path) -> None:
    trace, fleet = tmp_path / "t.csv", tmp_path / "f.yaml"
    trace.write_text("id,submit_s,duration_s,gpus,model\na,0,36000,1,ResNet-18 (batch size 16)\n")
    fleet.write_text("nodes: [{count: 1, devices: 8, kind: K80}]\n")
    words = ("--trace", str(trace), "--fleet", str(fleet), "--free", "-o", "json")
    slow = typed(capsys, *words, "--speeds", str(DATA / "gavel_throughputs.csv"))
    fast = typed(capsys, *words)
    jcts = [json.loads(out)["runs"][0]["jct_mean_s"] for _, out, _ in (slow, fast)]
    assert jcts[1] == 36_000 and jcts[0] > 2 * jcts[1]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--trace", "none.csv"), "there is no such file"),
        (("--policy", "tirsias"), "unknown policy 'tirsias': did you mean 'tiresias'"),
        (("--fleet", "1x1"), "devices, the whole fleet has 1"),
        (("--fleet", "many"), "there is no such file"),
        (("--rules", "none.yaml"), "cannot be read"),
        (("--load", "abc"), "invalid value for '--load'"),
        (("--free", "--costs", "c.json"), "--costs would be ignored"),
        (("--replicas", "1..4"), "there are none"),
    ],
)
def test_what_cannot_be_meant_has_a_cause_and_a_remedy(capsys, words, cause) -> None:
    code, _, err = typed(capsys, *words)
    assert code == 2
    assert cause in err and "remedy:" in err
