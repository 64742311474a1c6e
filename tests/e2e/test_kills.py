"""kill -9 of ranks, keepers, agents and the server: jobs go on, and logs and files read as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.e2e.fleet import PYTHON, Fleet, counter, is_whole, wait_for

WRITER = """
import os, pathlib, time
cache = pathlib.Path(os.environ["HOME"], ".cache", "ergo-e2e")
cache.mkdir(parents=True, exist_ok=True)
(cache / "seen").unlink(missing_ok=True)
log = open("log.txt", "a")
for step in range(240):  # long enough for a snapshot on a busy machine
    log.write(f"step {step}\\n"); log.flush()
    with open("state.txt", "w") as state: state.write(str(step) * 50)
    pathlib.Path("aside").write_text(f"renamed {step}"); os.replace("aside", "whole.txt")
    with open("input.bin", "r+b") as data: data.seek(step % 90); data.write(b"%02d" % (step % 100))
    pathlib.Path("made").mkdir(exist_ok=True)
    pathlib.Path(f"made/{step % 9}").write_text("x" * step)
    if step % 3 == 2: pathlib.Path(f"made/{(step - 1) % 9}").unlink()
    with open(cache / "seen", "a") as seen: seen.write(f"{step} ")
    os.write(1, b"line %d\\n" % step)
    time.sleep(0.02)
print("cache", (cache / "seen").read_text())
(cache / "seen").unlink()
"""


def test_files_and_logs_are_rolled_back_with_the_processes(fleet: Fleet, folder: Path, tmp_path: Path) -> None:
    (folder / "input.bin").write_bytes(b"." * 100)
    (folder / "left.txt").write_text("stays as it is")
    (folder / "writer.py").write_text(WRITER)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(folder, undisturbed)
    command = (PYTHON, "-I", "-S", "-u", "writer.py")
    home = {"HOME": str(tmp_path)}
    alone = subprocess.run(command, cwd=undisturbed, env=home, capture_output=True, text=True, check=True)
    job = fleet.submit(command, folder)
    job.printed(10)
    job.verb("snapshot")
    job.printed(20)
    os.kill(job.main_pid(), signal.SIGKILL)
    ended = job.ended()
    assert ended["recoveries"] == 1 and ended["lost_lines"] > 0
    assert job.log().decode() == alone.stdout
    for path in sorted(undisturbed.rglob("*")):
        if path.is_file():
            assert job.file(str(path.relative_to(undisturbed))) == path.read_bytes(), path


def test_a_job_goes_on_from_its_snapshot_when_its_program_its_first_process_or_its_keeper_is_killed(
    fleet: Fleet, folder: Path
) -> None:
    jobs = [fleet.submit(counter(), folder) for _ in range(3)]
    for job in jobs:
        job.printed()
        job.verb("snapshot")
        job.printed()
    victims = (jobs[0].main_pid(), jobs[1].first_pid(), int(jobs[2].keeper()["pid"]))
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    for job in jobs:
        wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered")
        job.printed()
        assert job.finished_whole()["incarnation"] == 2


def test_a_job_without_a_snapshot_starts_again_and_its_log_shows_one_run(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed(30)
    os.kill(job.main_pid(), signal.SIGKILL)
    wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered")
    job.printed()
    job.finished_whole()
    assert any("FROM ITS BEGINNING" in event["text"] for event in job.events())


def test_of_two_ranks_one_is_killed_and_both_go_back(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder, ranks=2)
    job.printed(rank=1)
    job.verb("snapshot")
    job.printed()
    os.kill(job.main_pid(rank=1), signal.SIGKILL)
    wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered")
    job.finish()
    assert is_whole(job.out(0)) and is_whole(job.out(1)), job.story()


def test_a_job_that_is_lost_too_often_has_failed_and_says_why(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder, max_restarts=1)
    for life in (1, 2):
        wait_for(lambda: job.detail["incarnation"] == life and job.phase == "running", f"life {life} runs")
        os.kill(job.main_pid(), signal.SIGKILL)
    ended = job.ended("failed")
    assert ended["exit_code"] == 137
    assert "beyond its limit of 1 restart" in ended["reason"] and "SIGKILL" in ended["reason"]


def test_the_death_of_agents_touches_no_rank(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder, ranks=5)
    job.printed()
    for node in ("node-0", "node-1"):
        fleet.kill_agent(node)
    job.printed(50)
    wait_for(lambda: fleet.get("/v1/status")["nodes_ready"] >= 2, "the agents are back")
    ended = job.finish()
    assert (ended["incarnation"], ended["recoveries"]) == (1, 0), job.story()
    assert all(is_whole(job.out(rank)) for rank in range(5)), job.story()


def test_the_death_of_the_server_touches_no_rank(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    fleet.kill_server()
    job.printed(50)
    fleet.start()
    job.printed()
    assert job.finished_whole()["incarnation"] == 1


def test_an_exit_while_server_and_agents_are_dead_is_reported_afterwards(fleet: Fleet, folder: Path) -> None:
    ends = fleet.submit(counter(then="sys.exit(7)"), folder, name="ends")
    stays = fleet.submit(counter(), folder, name="stays")
    ends.printed(1)
    stays.printed(1)
    keeper, work = ends.life() / "keeper.json", ends.life() / "work"
    fleet.kill_everyone()
    (work / "stop").touch()
    wait_for(lambda: '"state": "exited"' in keeper.read_text(), "the rank has ended")
    fleet.start()
    assert ends.ended("failed")["exit_code"] == 7
    assert is_whole([*ends.out(), "done"])
    assert stays.finished_whole()["incarnation"] == 1


def test_a_rank_that_dies_while_its_snapshot_is_being_written_leaves_no_image_behind(
    fleet: Fleet, folder: Path
) -> None:
    job = fleet.submit(counter("ballast = os.urandom(1 << 20) * 60"), folder)
    job.printed()
    dice = random.Random("images")
    before = fleet.agent_logs()
    for number in range(1, 4):
        job.verb("snapshot", wait_s=0)
        fleet.at_work(before, f" freeze {job.id}")
        time.sleep(dice.random() * 0.6)
        os.kill(job.main_pid(), signal.SIGKILL)
        before = fleet.agent_logs()  # now: a wish that outlived its life is taken up as soon as the next one runs
        wait_for(lambda number=number: job.detail["recoveries"] == number, "the job is recovered")
        job.printed()
    job.finished_whole()
    wait_for(lambda: not fleet.holds_images(), "no image is left in memory")
