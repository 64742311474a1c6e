"""Fleet and rules files: what they say is taken, and what cannot be meant is named with its line and a remedy."""

import gzip
import json
from dataclasses import replace

import pytest
from tests.sim.kit import DATA, trace, work

from ergosphere.core.model import ProjectView
from ergosphere.sim import costs, reading, rule_files, speeds
from ergosphere.sim.engine import Scenario, check
from ergosphere.sim.faulty import Faulty
from ergosphere.sim.fleet_files import read
from ergosphere.sim.fleets import Fleet, Machine, made_for, scaled, uniform
from ergosphere.sim.many import Task, run

WHOLE = """
name: two regions
regions:
  - name: west
    clusters:
      - name: w1
        domains:
          - {name: a, nodes: {count: 4, devices: 8, kind: A100, memory_gib: 80}}
          - {name: b, nodes: [{name: odd, devices: 4, kind: T4, spot: true}]}
  - name: east
    clusters:
      - {name: e1, nodes: {count: 20, devices: 2}}
projects:
  - name: lab
    quota: 20
    limit: 40
    projects: [{name: vision, quota: 12}, {name: text, quota: 8, weight: 2, borrow: false}]
"""


def written(folder, text, name="fleet.yaml"):
    path = folder / name
    path.write_text(text)
    return str(path)


def refused(folder, text, name="fleet.yaml"):
    with pytest.raises(Faulty) as caught:
        read(written(folder, text, name))
    return caught.value


def test_a_fleet_file_has_regions_clusters_domains_nodes_and_projects(tmp_path) -> None:
    fleet = read(written(tmp_path, WHOLE))
    assert (len(fleet.machines), fleet.devices, fleet.widest_node) == (25, 4 * 8 + 4 + 20 * 2, 8)
    odd = next(one for one in fleet.machines if one.id == "odd")
    assert (odd.region, odd.cluster, odd.domain, odd.kind, odd.spot) == ("west", "w1", "b", "T4", True)
    assert len({one.domain for one in fleet.machines if one.cluster == "e1"}) == 2, "sixteen nodes to a domain"
    assert [(one.id, one.parent, one.guarantee, one.borrow) for one in fleet.projects] == [
        ("lab", "", 20, True), ("vision", "lab", 12, True), ("text", "lab", 8, False)
    ]  # fmt: skip


def test_projects_are_written_as_for_ergo_projects_or_as_a_list(tmp_path) -> None:
    nodes = "nodes: [{count: 4}]\n"
    mapping = "projects:\n  lab:\n    guarantee: 8\n    children:\n      text: {limit: 4, borrow: false}\n  open:\n"
    listed = "projects: [{name: lab, quota: 8, projects: [{name: text, limit: 4, borrow: false}]}, {name: open}]\n"
    both = [read(written(tmp_path, nodes + text)).projects for text in (mapping, listed)]
    assert both[0] == both[1]
    assert [one.id for one in both[0]] == ["lab", "text", "open"]


@pytest.mark.parametrize(
    ("name", "nodes", "devices"),
    [
        ("openb_nodes.csv", 1_213, 6_212),
        ("pai2020_machines.csv", 1_814, 6_742),
        ("lingjun2023_topology.csv", 847, 6_776),
        ("alibaba_spot2026_fleet_by_model.csv", 4_278, 10_412),
    ],
)
def test_the_public_fleets_are_read_whole(name, nodes, devices) -> None:
    fleet = read(str(DATA / name))
    assert (len(fleet.machines), fleet.devices) == (nodes, devices)


def test_a_short_form_is_nodes_times_devices() -> None:
    assert read("16x4").devices == 64
    assert read("16 × 4").devices == 64


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nodes:\n  - {count: -4}\n", 2, "count: -4 cannot be meant"),
        ("nodes:\n  - {count: 2, devices: eight}\n", 2, "devices: 'eight' cannot be meant"),
        ("nodes:\n  - {cuont: 2}\n", 2, "a nodes has no cuont"),
        ("nodes:\n  - {name: a}\n  - {name: a}\n", 3, "node a is already on line 2"),
        ("nodes: [{count: 2}]\nprojects:\n  - {name: a, quota: 9, limit: 3}\n", 3, "limited to 3"),
        (
            "nodes: [{count: 2}]\nprojects:\n"
            "  - {name: a, quota: 9, projects: [{name: b, quota: 5}, {name: c, quota: 5}]}\n",
            3,
            "guaranteed 10 devices (b 5, c 5), but a itself only 9",
        ),
        ("nodes: [{count: 2}]\nprojects: [{name: a}, {name: a}]\n", 2, "project a is declared twice"),
        (
            "nodes: [{count: 2}]\nprojects:\n  - name: lab\n    limit: 4\n    projects: [{name: kid, quota: 8}]\n",
            3,
            "children of project lab are guaranteed 8 devices",
        ),
        ("nodes: [{count: 2}]\nprojects:\n  - name: a\n    quota: 2\n    guarantee: 2\n", 4, "mean the same"),
        ("nodes: [{count: 2}]\nprojects:\n  a:\n    borrow: maybe\n", 4, "borrow: 'maybe' cannot be meant"),
        ("nodes: [{count: 2}]\nprojects: [b]\n", 2, "the project has no name"),
        ("nodes: [{count: 2}]\nprojects: &p [{name: a, projects: *p}]\n", 2, "recursive"),
        ("nodes: {count: 2}\nnodes: {count: 9}\n", 2, "nodes is there twice, first on line 1"),
        ("nodes:\n  - count: 2\n    spot: maybe\n", 3, "spot: 'maybe' cannot be meant"),
        ("nodes: [{count: 2, kind: [a]}]\n", 1, "kind: ['a'] cannot be meant"),
        ("nodes: [{count: 2, memory_gib: .nan}]\n", 1, "memory_gib: nan cannot be meant"),
        ("nodes: [{count: 900000}]\n", 1, "count: 900000 cannot be meant"),
        ("regions: [{clusters: []}]\nnodes: [{count: 1}]\n", 1, "the region has no name"),
        ("nodes: [\n", 2, "is no YAML"),
        ("- a\n", 1, "holds no fleet"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line_and_a_remedy(tmp_path, text, line, words) -> None:
    fault = refused(tmp_path, text)
    assert f"line {line}: " in fault.cause and words in fault.cause
    assert fault.remedy


def test_a_fleet_without_nodes_or_columns_is_refused(tmp_path) -> None:
    assert "has no node" in refused(tmp_path, "name: empty\n").cause
    assert "no column for the node" in refused(tmp_path, "a,b\n1,2\n", "f.csv").cause
    assert "line 3: node 1 is already on line 2" in refused(tmp_path, "node_id,gpus\n1,8\n1,8\n", "f.csv").cause
    assert "line 3: not as many fields as columns, 2" in refused(tmp_path, "node,gpus\n1,8\n2,8,9\n", "f.csv").cause
    assert "line 2: 'x' is no number of a host" in refused(tmp_path, "host,asw,psw\nx,1,1\n", "f.csv").cause
    assert "line 1: column gpus is there twice" in refused(tmp_path, "node,gpus,gpus\n1,8,8\n", "f.csv").cause
    assert "0x8" in refused_short("0x8").cause
    with pytest.raises(Faulty, match="no such file"):
        read(str(tmp_path / "none.yaml"))


def refused_short(text):
    with pytest.raises(Faulty) as caught:
        read(text)
    return caught.value


def test_a_fleet_is_made_for_a_traces_load_and_holds_its_widest_job() -> None:
    steady = trace(*(work(f"j{n}", n * 100.0, 800.0) for n in range(101)))  # eight devices on average
    assert made_for(steady, 0.5).devices == 24, "808 device-seconds a hundred, rounded up to whole nodes"
    assert made_for(trace(work("wide", 0, 10, devices=60), work("late", 10_000, 10)), 0.8).devices == 64
    assert scaled(uniform(10), 1.5).devices == 120
    assert len({one.id for one in scaled(uniform(10), 2.5).machines}) == 25


TWO = Fleet("two", tuple(Machine(name, 8, region=name, memory_gib=40) for name in ("west", "east")))


@pytest.mark.parametrize(
    ("job", "fleet", "words"),
    [
        (work("a", 0, 9, 16), TWO, "needs 16 devices of one type in one cluster, the most there are 8"),
        (work("a", 0, 9, 17), TWO, "needs 17 devices, the whole fleet has 16"),
        (work("a", 0, 9, 9, regions=("west",)), TWO, "needs 9 devices in west, the fleet has 8"),
        (work("a", 0, 9, 1, memory_gib=80.0), TWO, "needs 1 devices with 80 GiB, the fleet has 0"),
        (work("a", 0, 9, 1, speeds=(("H100", 1.0),)), TWO, "needs 1 devices of type H100, the fleet has 0"),
        (
            work("a", 0, 9, 8, project="kid"),
            replace(TWO, projects=(ProjectView("lab", limit=4), ProjectView("kid", "lab"))),
            "needs 8 devices, project lab is limited to 4",
        ),
        (
            work("a", 0, 9, 8, project="lab"),
            replace(TWO, projects=(ProjectView("lab", guarantee=4, borrow=False),)),
            "needs 8 devices, project lab is guaranteed 4 and does not borrow",
        ),
    ],
)
def test_a_job_that_could_never_run_is_refused_and_what_it_lacks_is_named(job, fleet, words) -> None:
    with pytest.raises(Faulty, match=words) as caught:
        check(Scenario(trace(work("fits", 0, 9, 8), job), fleet))
    assert caught.value.remedy and "fits" not in caught.value.cause


def test_a_gang_mixes_devices_of_a_type_with_enough_memory() -> None:
    mixed = Fleet("mixed", tuple(Machine(name, 8, memory_gib=size) for name, size in (("a", 80), ("b", 79), ("c", 40))))
    check(Scenario(trace(work("a", 0, 9, 24), work("b", 0, 9, 16, memory_gib=70.0)), mixed))
    with pytest.raises(Faulty, match="needs 17 devices with 70 GiB, the fleet has 16"):
        check(Scenario(trace(work("a", 0, 9, 17, memory_gib=70.0)), mixed))


def test_a_short_row_of_speeds_and_a_damaged_archive_are_named(tmp_path) -> None:
    table = tmp_path / "speeds.csv"
    table.write_text("steps_per_s,gpus,model,gpu_type\n2.0,1,resnet,V100\n2.0,1,resnet\n2.0,1\n")
    with pytest.raises(Faulty) as caught:
        speeds.read(table)
    assert "line 3: holds no speed" in caught.value.cause and caught.value.remedy
    packed = bytearray(gzip.compress(b"job_id,submit_s,duration_s,gpus\na,0,60,1\n" * 50))
    packed[14:18] = b"\xff" * 4
    for damaged in (bytes(packed), bytes(packed[:20])):
        path = tmp_path / "t.csv.gz"
        path.write_bytes(damaged)
        with pytest.raises(Faulty, match="cannot be read") as caught:
            reading.read(path)
        assert caught.value.remedy


def test_a_job_whose_project_does_not_borrow_waits_in_the_simulator_too() -> None:
    fleet = replace(uniform(1), projects=(ProjectView("lab", guarantee=4, borrow=False),))
    both = trace(*(work(name, 0, 3_600, 4, project="lab") for name in "ab"))
    played = run(Task("ergosphere", Scenario(both, fleet)))
    assert sorted(one.started_s > 3_600 for one in played.world.ended) == [False, True]


def test_rules_and_costs_files_are_checked(tmp_path) -> None:
    good = tmp_path / "rules.yaml"
    good.write_text("min_run_s: 30\nquantum_s: 900\n")
    assert rule_files.read(good).quantum_s == 900
    for text, words in (
        ("min_rn_s: 3\n", "line 1: unknown rule 'min_rn_s': did you mean 'min_run_s'"),
        ("quantum_s: -1\n", "line 1: quantum_s is -1"),
        ("min_run_s: 900\nquantum_s: 60\n", "line 2: quantum_s (60) is shorter than min_run_s (900)"),
        ("- 1\n", "line 1: holds no rules"),
        ("pauses_per_hour: .inf\n", "line 1: pauses_per_hour is inf"),
        ("moves_per_turn: 1.0e+400\n", "line 1: moves_per_turn is inf"),
        ("moves_per_turn: 1000000000000\n", "line 1: moves_per_turn is 1e+12"),
        ("pauses_per_hour: 2.5\n", "line 1: pauses_per_hour is 2.5"),
        ("min_run_s: .nan\n", "line 1: min_run_s is nan"),
        ("settle_s: 5\nowed_margin_s: 2000\n", "line 2: owed_margin_s (2000) is all that a standard job may miss"),
        ("payback_s: 0\npayback: 5\n", "line 2: payback (5) is the part"),
        ("min_run_s: 100\nowed_turn_s: 5\n", "line 2: owed_turn_s (5) is shorter than min_run_s (100)"),
        ("min_run_s: 60\nmin_run_s: 90\n", "line 2: min_run_s is there twice, first on line 1"),
    ):
        good.write_text(text)
        with pytest.raises(Faulty) as caught:
            rule_files.read(good)
        assert words in caught.value.cause and caught.value.remedy
    paid = tmp_path / "costs.json"
    paid.write_text('{"freeze_s": 2, "thaw_s": 3}')
    assert (costs.read(paid).freeze_s, costs.read(paid).thaw_s) == (2, 3)
    rows = [("mechanism/freeze/1GB", 800, "ms"), ("mechanism/thaw/1GB", 3, "s"), ("elastic/resize/4to1", 0.5, "s")]
    listed = [{"name": name, "value": value, "unit": unit} for name, value, unit in rows]
    paid.write_text(json.dumps({"rows": listed}))
    assert costs.read(paid) == costs.Costs(freeze_s=pytest.approx(0.8), thaw_s=3.0, resize_s=0.5)
    for text, words in (
        ('{"rows": 5}', "no row is about freeze"),
        ('{"rows": [{"name": "freeze", "value": "x", "unit": "s"}]}', "no row is about freeze"),
        ("[1]", "holds no costs"),
        ('{"freeze_s": NaN}', "freeze_s: nan cannot be meant"),
    ):
        paid.write_text(text)
        with pytest.raises(Faulty, match=words):
            costs.read(paid)
    paid.write_text('{"freeze": 2, "thaw_s": -1}')
    with pytest.raises(Faulty, match="no cost is called freeze"):
        costs.read(paid)
