"""Ranks that work together (torch.distributed on CPU), and jobs that make room for one another."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.e2e.fleet import Fleet, Job, counter, is_whole, wait_for

SUMS = """
import os, sys, time
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(rank)
def cut_off():  # the store, which every rank needs to find its peers again
    import socket
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as one:
                if one.getsockname()[1] == 29500: one.shutdown(socket.SHUT_RDWR)
        except OSError: pass
step, total, over = 0, torch.zeros(64), torch.zeros(1)
print("ready", flush=True)
while not over.item():
    over.fill_(float(rank == 0 and os.path.exists("stop")))
    dist.all_reduce(over)
    part = torch.randn(64)
    dist.all_reduce(part)
    total += part
    print(step, float(total.sum()), flush=True)
    step += 1
    time.sleep(0.01)
    if rank == 0 and os.path.exists(os.environ.get("CUT_OFF", "/nowhere")):
        os.remove(os.environ["CUT_OFF"]); cut_off()
    if rank == 1 and os.path.exists("sleep"):
        os.rename("sleep", "slept"); time.sleep(6)
print("done", flush=True)
"""


def _sums(count: int, world: int) -> list[str]:
    """What every rank prints in `count` steps, undisturbed: each sum of the parts in the order of Gloo's two ranks."""
    import torch

    dice = [torch.Generator().manual_seed(rank) for rank in range(world)]
    total, printed = torch.zeros(64), []
    for step in range(count):
        total += sum((torch.randn(64, generator=one) for one in dice[1:]), torch.randn(64, generator=dice[0]))
        printed.append(f"{step} {float(total.sum())}")
    return printed


def _submit(
    fleet: Fleet, folder: Path, env: dict[str, str] | None = None, opened: tuple[str, ...] = (), **said: object
) -> Job:
    (folder / "sums.py").write_text(SUMS)
    env = {"OMP_NUM_THREADS": "1", **(env or {})}
    job = fleet.submit((sys.executable, "sums.py"), folder, env, ranks=2, mounts=(sys.prefix, *opened), **said)
    job.printed(20)
    return job


def _is_right(job: Job) -> bool:
    outs = [job.out(rank) for rank in range(2)]
    steps = outs[0][1:-1]
    return outs[0] == outs[1] == ["ready", *steps, "done"] and steps == _sums(len(steps), 2)


def test_two_ranks_that_sum_are_paused_moved_and_killed_and_sum_right(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder)
    job.verb("pause")
    job.verb("resume")
    job.printed()
    job.verb("migrate")
    job.printed()
    job.verb("snapshot")
    job.printed()
    os.kill(job.main_pid(rank=1), signal.SIGKILL)
    wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered", 120)
    job.printed()
    job.order_and_kill("freeze", 0.15)
    job.settle()
    job.finish()
    assert _is_right(job), job.story()


def test_a_job_whose_ranks_cannot_meet_again_after_a_cut_goes_on_from_its_last_snapshot(
    fleet: Fleet, folder: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "not-rolled-back" / "cut-off"
    flag.parent.mkdir()
    job = _submit(fleet, folder, env={"CUT_OFF": str(flag)}, opened=(f"{flag.parent}:rw",))
    job.verb("snapshot")
    flag.touch()
    wait_for(lambda: not flag.exists(), "the store is cut off")
    job.verb("snapshot", wait_s=0)
    wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered", 120)
    job.printed()
    job.finish()
    assert _is_right(job), job.story()


def test_a_rank_that_does_not_come_to_its_collective_is_named_and_the_job_runs_on(fleet: Fleet, folder: Path) -> None:
    job = _submit(fleet, folder, hold_s=1.0)
    (job.life() / "work/sleep").touch()
    wait_for(lambda: (job.life() / "work/slept").exists(), "rank 1 sleeps")
    problem = job.verb("pause", status=409)
    assert "rank 1 has not reached collective" in problem["error"] and "runs on" in problem["error"], problem
    assert "--hold" in problem["remedy"]
    job.printed(5)
    job.finish()
    assert _is_right(job), job.story()


def test_a_premium_job_makes_room_and_who_was_frozen_for_it_goes_on_by_itself(fleet: Fleet, folder: Path) -> None:
    small = fleet.submit(counter(), folder, name="small", tier="basic", ranks=3)
    large = fleet.submit(counter("ballast = os.urandom(1 << 20) * 50"), folder, name="large", tier="basic", ranks=4)
    small.printed()
    large.printed()
    premium = fleet.submit(counter(), folder, name="premium", tier="premium", ranks=3)
    premium.printed(rank=2)
    frozen = small if small.phase == "frozen" else large
    other = large if frozen is small else small
    assert (frozen.phase, other.phase) == ("frozen", "running")
    assert any("makes room for" in text and "premium" in text for text in frozen.told("freeze-ordered"))
    assert frozen.detail["reason"]
    premium.finished_whole()
    frozen.until("running")
    frozen.printed()
    for job in (small, large):
        job.finish()
        assert all(is_whole(job.out(rank)) for rank in range(3)), job.story()


SLOW_TO_EXIT = """
import atexit, time
atexit.register(time.sleep, 8)  # runs after whatever was registered later
import torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
print("over", flush=True)
"""


def test_a_job_whose_programs_are_over_and_not_yet_gone_is_left_to_end(fleet: Fleet, folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW_TO_EXIT)
    job = fleet.submit((sys.executable, "slow.py"), folder, {"OMP_NUM_THREADS": "1"}, ranks=2, mounts=(sys.prefix,))
    wait_for(lambda: all(job.out(rank) == ["over"] for rank in (0, 1)), "both programs are over")
    time.sleep(0.5)
    told = job.verb("pause", status=409)
    assert "end of its program" in str(told), told
    job.verb("resume", wait_s=0)
    assert job.ended()["recoveries"] == 0
