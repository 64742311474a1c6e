"""Jobs get fewer and more devices while they run, on a real fleet: no process ends for it, and no bit differs."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.fleet import Fleet, Job, counter, is_whole, running, wait_for
from tests.e2e.test_ranks import SUMS, _sums


def _submit(fleet: Fleet, folder: Path, ranks: int, **said: object) -> Job:
    (folder / "sums.py").write_text(SUMS)
    env = {"OMP_NUM_THREADS": "1"}
    told = {"ranks": ranks, "min_devices": 1, "mounts": (sys.prefix,), **said}
    job = fleet.submit((sys.executable, "sums.py"), folder, env, **told)
    job.printed(10)
    return job


def _ends_right(job: Job, ranks: int) -> None:
    """Every rank has printed each sum once, folded in rank order."""
    job.finish()
    outs = [job.out(rank) for rank in range(ranks)]
    steps = outs[0][1:-1]
    assert all(out == ["ready", *steps, "done"] for out in outs), job.story()
    assert steps == _sums(len(steps), ranks), job.story()


def _resize(job: Job, devices: int) -> None:
    told = job.verb("resize", devices=devices)
    assert told["done"], job.story(told)
    assert job.detail["devices"] == devices
    job.printed(5)


def test_four_ranks_shrink_and_grow_without_a_process_ending_for_it(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder, 4)
    pids = [job.main_pid(rank) for rank in range(4)]
    for devices in (1, 2, 4, 1):
        _resize(job, devices)
    assert [job.main_pid(rank) for rank in range(4)] == pids
    assert (job.detail["incarnation"], job.detail["resizes"], job.detail["snapshots"]) == (1, 4, [])
    assert fleet.get("/v1/status")["devices_used"] == 1
    _ends_right(job, 4)


def test_resizes_among_pauses_moves_and_kills_change_no_bit(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder, 4)
    _resize(job, 1)
    job.verb("pause")
    told = job.verb("resize", devices=2)
    assert "will go on on 2 devices" in told["text"]
    job.verb("resume")
    assert job.detail["devices"] == 2, "a snapshot taken on one device thaws on two"
    job.printed(5)
    job.verb("migrate")
    assert job.detail["devices"] == 2
    _resize(job, 4)
    job.verb("snapshot")
    _resize(job, 1)
    os.kill(job.main_pid(rank=2), signal.SIGKILL)
    wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered", 120)
    assert job.until("running")["devices"] == 1
    job.printed(5)
    _ends_right(job, 4)


def test_a_job_of_two_nodes_is_resized_where_it_is_then_onto_one_device_and_spread_again(
    fleet: Fleet, folder: Path
) -> None:
    job = _submit(fleet, folder, 6)
    nodes = job.nodes
    assert set(nodes) == {"node-0", "node-1"}
    _resize(job, 3)
    assert (job.nodes, job.detail["incarnation"], job.detail["resizes"]) == (nodes, 1, 1)
    _resize(job, 1)
    assert len(set(job.nodes)) == 1
    _resize(job, 6)
    assert set(job.nodes) == {"node-0", "node-1"}
    _ends_right(job, 6)


def test_an_agent_that_dies_in_the_middle_of_a_resize_finishes_it_when_it_is_back(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder, 4)
    for delay_s in (0.0, 0.1):
        job.order_and_kill("resize", delay_s)
        wait_for(lambda: job.detail["phase"] == "running" and job.detail["devices"] == 1, "it has one device")
        job.printed(5)
        _resize(job, 4)
    assert job.detail["incarnation"] == 1
    _ends_right(job, 4)


def test_the_server_dies_in_the_middle_of_a_resize(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder, 4)
    before = fleet.agent_logs()
    job.verb("resize", wait_s=0, devices=1)
    fleet.at_work(before, f" resize {job.id}")
    fleet.kill_server()
    fleet.start()
    wait_for(lambda: job.detail["devices"] == 1 and job.phase == "running", "it has one device")
    job.printed(5)
    _ends_right(job, 4)


def test_a_rank_that_is_killed_in_the_middle_of_a_resize_costs_nothing_but_time(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder, 4)
    job.verb("snapshot")
    before = fleet.agent_logs()
    job.verb("resize", wait_s=0, devices=1)
    fleet.at_work(before, f" resize {job.id}")
    os.kill(job.main_pid(rank=3), signal.SIGKILL)
    wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered", 120)
    job.until("running")
    assert job.detail["devices"] in (1, 4), "as it was asked for, or as it was"
    _ends_right(job, 4)


def test_ranks_get_the_cores_of_their_device_at_a_start_a_resize_and_a_thaw(tmp_path: Path, folder: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with running(Fleet(tmp_path / "home", nodes=1, devices=len(cores))) as fleet:
        job = fleet.submit(counter(), folder, ranks=len(cores), min_devices=1)

        def seen() -> list[set[int]]:
            return [os.sched_getaffinity(job.main_pid(rank)) for rank in range(len(cores))]

        job.printed()
        own = [{core} for core in cores]
        assert seen() == own
        _resize(job, 1)
        assert seen() == [{cores[0]}] * len(cores)
        job.verb("pause")
        job.verb("resume")
        assert seen() == [{cores[0]}] * len(cores), "CRIU leaves affinity out"
        _resize(job, len(cores))
        assert seen() == own
        job.finish()
        assert all(is_whole(job.out(rank)) for rank in range(len(cores))), job.story()


def test_a_rank_that_does_not_come_to_the_cut_is_named_and_the_job_keeps_its_devices(
    fleet: Fleet, folder: Path
) -> None:
    job = _submit(fleet, folder, 2, hold_s=1.0)
    (job.life() / "work/sleep").touch()
    wait_for(lambda: (job.life() / "work/slept").exists(), "rank 1 sleeps")
    problem = job.verb("resize", status=409, devices=1)
    assert "rank 1 has not reached collective" in problem["error"] and "runs on as it was" in problem["error"], problem
    assert job.detail["devices"] == 2
    job.printed(5)
    _ends_right(job, 2)


def test_a_rank_that_dies_on_the_way_is_named_and_the_job_is_not_said_to_run_on(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder, 2, hold_s=20.0)
    job.verb("snapshot")
    (job.life() / "work/sleep").touch()
    wait_for(lambda: (job.life() / "work/slept").exists(), "rank 1 sleeps")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(job.verb, "resize", status=409, devices=1)
        wait_for(lambda: job.phase == "resizing", "the resize is under way")
        os.kill(job.main_pid(1), signal.SIGKILL)
        problem = asked.result()
    assert "could not be resized: rank 1 ended meanwhile" in problem["error"], problem
    assert "runs on as it was" not in job.story()
    wait_for(lambda: job.detail["recoveries"] == 1, "it is brought back")
    _ends_right(job, 2)


def test_jobs_are_shrunk_for_a_stronger_one_and_grow_back(fleet: Fleet, folder: Path) -> None:
    basic = fleet.submit(counter(), folder, name="basic", tier="basic", ranks=4, min_devices=1)
    other = fleet.submit(counter(), folder, name="other", tier="basic", ranks=4, min_devices=1)
    basic.printed()
    other.printed()
    premium = fleet.submit(counter(), folder, name="premium", tier="premium", ranks=2)
    premium.printed(rank=1)
    assert {basic.detail["devices"], other.detail["devices"]} == {2, 4}
    assert (basic.detail["pauses"], other.detail["pauses"]) == (0, 0)
    premium.finished_whole()
    wait_for(lambda: {basic.detail["devices"], other.detail["devices"]} == {4}, "it grows back")
    for job in (basic, other):
        job.finish()
        assert all(is_whole(job.out(rank)) for rank in range(4)), job.story()


def test_what_cannot_be_is_refused_and_nothing_is_touched(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder, ranks=4, min_devices=2)
    job.printed()
    cases = {3: "cannot share 3 devices evenly; it can run on 2, 4", 8: "more than its 4 ranks", 1: "--min-devices"}
    for devices, words in cases.items():
        assert words in job.verb("resize", status=409, devices=devices)["error"]
    time.sleep(0.2)
    assert (job.detail["devices"], job.detail["resizes"]) == (4, 0)
    job.finished_whole()
