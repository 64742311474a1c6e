"""Traces: what they say is taken, and what cannot be meant is named with its line and a remedy."""

import gzip

import pytest
from tests.sim.kit import DATA

from ergosphere.core.model import Tier
from ergosphere.sim.faulty import Faulty
from ergosphere.sim.reading import Wish, read

HEADER = "job_id,submit_s,duration_s,gpus\n"


def written(folder, text, name="trace.csv"):
    path = folder / name
    path.write_text(text)
    return path


def refused(folder, text, name="trace.csv", wish=Wish()):
    with pytest.raises(Faulty) as caught:
        read(written(folder, text, name), wish)
    return caught.value


@pytest.mark.parametrize(
    ("name", "jobs", "widest"),
    [
        ("common_T64.csv", 762, 8),
        ("common_T1024.csv.gz", 12_073, 8),
        ("itp_jobs.csv.gz", 44_910, 64),
        ("philly_jobs.csv.gz", 82_247, 128),
        ("openb_pods_default.csv.gz", 7_063, 8),
    ],
)
def test_every_recorded_trace_is_read_whole(name, jobs, widest) -> None:
    trace = read(DATA / name)
    assert (len(trace.works), trace.widest) == (jobs, widest)


def test_tiers_by_a_hash_have_their_shares_and_depend_on_the_seed_alone() -> None:
    path = DATA / "common_T1024.csv.gz"
    first, again, other = (read(path, Wish(seed=seed)).works for seed in (1, 1, 2))
    assert first == again != other
    shares = {tier: sum(one.tier is tier for one in first) / len(first) for tier in Tier}
    assert shares == pytest.approx({Tier.PREMIUM: 0.2, Tier.STANDARD: 0.3, Tier.BASIC: 0.5}, abs=0.02)


def test_the_public_traces_own_columns_are_known(tmp_path) -> None:
    helios = "job_id,user,vc,gpu_num,submit_time,start_time,end_time,duration\n7,u,v,2,2020-04-01 00:00:10,x,y,60\n"
    only = read(written(tmp_path, helios)).works[0]
    assert (only.id, only.devices, only.duration_s, only.project) == ("7", 2, 60.0, "v")
    openb = "name,num_gpu,gpu_spec,creation_time,deletion_time,scheduled_time\np,1,V100|T4,5,65,15\n"
    only = read(written(tmp_path, openb)).works[0]
    assert (only.submit_s, only.duration_s, only.speeds) == (5.0, 50.0, (("V100", 1.0), ("T4", 1.0)))


def test_phillys_own_log_is_read(tmp_path) -> None:
    log = """[{"jobid": "a", "vc": "x", "submitted_time": "2017-10-01 00:00:00", "attempts": [
      {"start_time": "2017-10-01 00:01:00", "end_time": "2017-10-01 00:11:00",
       "detail": [{"ip": "m", "gpus": ["0", "1"]}]},
      {"start_time": null, "end_time": null, "detail": []}]},
     {"jobid": "never", "vc": "x", "submitted_time": "2017-10-01 00:00:00", "attempts": []}]"""
    (only,) = read(written(tmp_path, log, "log.json")).works
    assert (only.id, only.submit_s, only.duration_s, only.devices) == ("a", 0.0, 600.0, 2)


def test_a_packed_trace_is_read_too(tmp_path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER}a,0,60,1\n".encode()))
    assert read(path).works[0].id == "a"


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ("a,0,-5,1", 2, "'-5' is no duration"),
        ("a,0,60,1\nb,-1,60,1", 3, "lies before the trace"),
        ("a,0,60,1.5", 2, "'1.5' is no number of devices"),
        ("a,0,60,-2", 2, "'-2' is no number of devices"),
        ("a,0,60,9000000000", 2, "is no number of devices"),
        ("a,0,nan,1", 2, "'nan' is no duration"),
        ("a,soon,60,1", 2, "'soon' is no time of submission"),
        ("a,0,86400000000,1", 2, "1,000,000 days cannot be meant"),
        ("a,1506900000000,60,1", 2, "cannot be seconds"),
        ("a,0,60,1\nb,1,60,1\na,2,60,1", 4, "job a is already on line 2"),
        ("a,10,60,1\nb,5,60,1", 3, "before the job on line 2 at 10 s"),
        ("a,0,60", 2, "3 fields instead of 4"),
        (",0,60,1", 2, "the job has no id"),
        ("a,0,60,1,7,8", 2, "6 fields instead of 4"),
        ("a\x00,0,60,1", 2, "'a\\x00' is no id"),
        ("a,0,3600000,1\nb,1000,7200000,1\nc,60000,3600000,2", 2, "a duration of 42 days, and half of the jobs"),
        ('a,0,60,1\n"b,0,60,1', 3, "fields instead of 4"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line_and_a_remedy(tmp_path, rows, line, words) -> None:
    fault = refused(tmp_path, HEADER + rows + "\n")
    assert f"line {line}: " in fault.cause and words in fault.cause
    assert fault.remedy


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("deadline_s", "5", "line 2: a deadline at 5 s lies before the submission at 10 s"),
        ("devices_min", "1.5", "line 2: '1.5' devices at least, of 2"),
        ("speeds", "v100=fast", "line 2: 'v100=fast' is no device type with its speed"),
        ("speeds", "v100=1|v100=2", "line 2: 'v100=2' is no device type"),
        ("memory_gib", "-4", "line 2: '-4' is no memory of a device"),
        ("array", "0", "line 2: array: '0' cannot be meant"),
        ("gpus", "2", "line 1: column gpus is there twice"),
    ],
)
def test_further_columns_that_cannot_be_meant_are_named_too(tmp_path, column, value, words) -> None:
    fault = refused(tmp_path, f"job_id,submit_s,duration_s,gpus,{column}\na,10,60,2,{value}\n")
    assert words in fault.cause and fault.remedy


def test_a_trace_may_say_where_a_job_can_run_and_how_fast(tmp_path) -> None:
    header = "job_id,submit_s,duration_s,gpus,region,data_region,memory_gib,speeds,deadline_s\n"
    text = header + "a,1600000010,2h,2,west|east,west,40,v100=1|k80=0.25,1600009000\n"
    (only,) = read(written(tmp_path, text)).works
    assert (only.regions, only.data_region, only.memory_gib) == (("west", "east"), "west", 40.0)
    assert only.speeds == (("v100", 1.0), ("k80", 0.25)) and only.duration_s == 7_200.0
    assert (only.submit_s, only.deadline_s) == (0.0, 8_990.0), "both count from the first submission"


def test_a_long_duration_is_taken_where_its_unit_is_written(tmp_path) -> None:
    assert read(written(tmp_path, f"{HEADER}a,0,41d,1\n")).works[0].duration_s == 41 * 86_400


def test_an_array_is_many_jobs_and_who_is_after_it_is_after_all(tmp_path) -> None:
    text = "job_id,submit_s,duration_s,gpus,array,after\nsweep,0,60,1,3,\nlast,0,60,1,,sweep\n"
    works = read(written(tmp_path, text)).works
    assert [one.id for one in works] == ["sweep.0", "sweep.1", "sweep.2", "last"]
    assert works[-1].after == ("sweep.0", "sweep.1", "sweep.2")


def test_missing_columns_are_all_named(tmp_path) -> None:
    fault = refused(tmp_path, "job,begin\n1,2\n")
    assert all(name in fault.cause for name in ("job_id", "submit_s", "gpus", "duration_s"))
    assert "job_id,submit_s,duration_s,gpus" in fault.remedy


def test_many_faults_are_named_ten_at_a_time(tmp_path) -> None:
    fault = refused(tmp_path, HEADER + "".join(f"{n},0,-1,1\n" for n in range(25)))
    assert "and 15 more faults" in fault.cause


def test_arrivals_out_of_order_are_taken_when_asked_to(tmp_path) -> None:
    path = written(tmp_path, f"{HEADER}a,10,60,1\nb,5,60,1\n")
    assert [one.id for one in read(path, Wish(ordered=False)).works] == ["b", "a"]


def test_jobs_that_wait_for_each_other_are_named_as_a_ring(tmp_path) -> None:
    rows = "job_id,submit_s,duration_s,gpus,after\na,0,9,1,c\nb,0,9,1,a\nc,0,9,1,b\nd,0,9,1,a\n"
    fault = refused(tmp_path, rows)
    assert "jobs wait for each other: a → c → b → a" in fault.cause
    fault = refused(tmp_path, "job_id,submit_s,duration_s,gpus,after\na,0,9,1,z\n")
    assert "job a is after z, which is not there" in fault.cause


def test_long_chains_are_no_rings(tmp_path) -> None:
    rows = [f"{n},0,9,1,{n - 1 if n else ''}" for n in range(5_000)]
    path = written(tmp_path, "job_id,submit_s,duration_s,gpus,after\n" + "\n".join(rows) + "\n")
    assert len(read(path).works) == 5_000


@pytest.mark.parametrize(("text", "name"), [("", "a.csv"), ("[1, 2]", "a.json"), ("{", "a.json"), (HEADER, "a.csv")])
def test_files_that_hold_no_trace_are_refused(tmp_path, text, name) -> None:
    fault = refused(tmp_path, text, name)
    assert fault.cause and fault.remedy


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path) -> None:
    with pytest.raises(Faulty, match="no such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(Faulty, match="cannot be read"):
        read(tmp_path / "b.csv")
