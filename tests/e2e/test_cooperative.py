"""Programs that cannot be frozen and save themselves: asked by a signal, given a while, and begun again elsewhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, Job, counter, is_whole, python, wait_for

HOLDS = """
import ctypes
held = ctypes.CDLL(None, use_errno=True).syscall(323, os.O_CLOEXEC)
assert held >= 0, os.strerror(ctypes.get_errno())
"""  # a userfaultfd (x86-64's number): CRIU cannot save one
SAVES = "signal.signal(signal.SIGTERM, lambda *_: leaving.append(1))"
IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
KEEPS = "open(kept + '.new', 'w').write(str(number)); os.rename(kept + '.new', kept)"


def saver(handler: str = SAVES, each: str = "", saving: str = "") -> tuple[str, ...]:
    """A program that goes on from its file, and cannot be frozen."""
    return python(f"""
import os, signal, sys, time
{HOLDS}
leaving, kept = [], "counter" + os.environ.get("RANK", "0")
{handler}
number = int(open(kept).read()) if os.path.exists(kept) else 0
os.write(2, b"begins at %d\\n" % number)
while not os.path.exists("stop"):
    os.write(1, b"line %d\\n" % number)
    number += 1
    {each}
    time.sleep(0.005)
    if leaving:
        {saving}
        {KEEPS}
        os.write(2, b"asked %d times, saved %d\\n" % (len(leaving), number))
        sys.exit(0)
open("result" + os.environ.get("RANK", "0"), "w").write(str(number))
os.write(1, b"done\\n")
""")


def ends_whole(job: Job) -> dict[str, object]:
    """Nothing was printed twice or lost, and what it leaves is what it would have left."""
    ended = job.finished_whole()
    assert job.file("result0") == str(len(job.out()) - 1).encode(), job.story(ended)
    return ended


def test_a_program_that_cannot_be_frozen_saves_itself_and_goes_on_here_and_elsewhere(
    fleet: Fleet, folder: Path
) -> None:
    job = fleet.submit(saver(), folder, grace_s=20.0, snapshot_every_s=3600.0)
    job.printed()
    job.verb("pause")
    found = job.detail
    assert (found["phase"], found["rung"], found["incarnation"]) == ("frozen", "cooperative", 1), job.story(found)
    assert "userfaultfd" in found["rung_because"] and "SIGTERM" in found["rung_because"]
    assert "saved itself within" in job.told("froze")[0]
    assert any("now on the rung cooperative" in text for text in job.told("rung"))
    job.verb("resume")
    job.printed()
    there = job.nodes[0]
    other = next(node["id"] for node in fleet.get("/v1/nodes") if node["id"] != there)
    job.verb("migrate", to=[other])
    job.printed()
    found = job.detail
    assert (found["nodes"], found["incarnation"], found["moves"]) == ([other], 3, 1), job.story(found)
    assert (found["recoveries"], found["lost_lines"]) == (0, 0)
    shown = fleet.ergo("show", job.id, folder=folder).stdout
    assert "cooperative" in shown and "20s to save itself" in shown, shown
    os.kill(job.main_pid(), signal.SIGKILL)
    wait_for(lambda: job.detail["incarnation"] == 4 and job.phase == "running", "it goes on from what it saved last")
    ends_whole(job)
    begun = [line.split()[-1] for line in job.err().splitlines() if line.startswith("begins")]
    saved = [line.split()[-1] for line in job.err().splitlines() if line.startswith("asked 1 times, saved")]
    assert begun == ["0", *saved] and len(saved) == 2, job.err()


def test_ranks_on_several_nodes_save_themselves_for_a_stronger_job_and_come_back(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(saver(), folder, ranks=5, tier="basic", grace_s=20.0)
    job.printed(rank=4)
    assert len(set(job.nodes)) == 2
    premium = fleet.submit(counter(), folder, ranks=8, tier="premium")
    premium.printed()
    assert job.phase == "frozen" and len(job.told("froze")) == 1, job.story()
    premium.finish()
    job.printed(rank=4)
    ended = job.finish()
    assert (ended["incarnation"], ended["rung"], ended["recoveries"]) == (2, "cooperative", 0)
    for rank in range(5):
        assert is_whole(job.out(rank)), job.story(ended)


def test_one_that_does_not_end_in_time_is_killed_and_goes_on_from_the_file_it_has(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(saver(IGNORES, each=f"if number % 20 == 0: {KEEPS}"), folder, grace_s=0.5)
    job.printed(50)
    there = job.nodes[0]
    fleet.post(f"/v1/nodes/{there}/drain")
    try:
        wait_for(lambda: job.detail["incarnation"] == 2 and job.phase == "running", "it runs again")
        assert job.nodes != [there]
        assert "it did not end within 0.5 s and was killed" in job.told("froze")[0]
        job.printed()
        ended = job.finish()
    finally:
        fleet.post(f"/v1/nodes/{there}/undrain")
    numbers = [int(line.split()[1]) for line in job.out()[:-1]]
    first, again = (int(line.split()[2]) for line in job.err().splitlines() if line.startswith("begins at"))
    printed = len(numbers) - len(range(again, numbers[-1] + 1))
    assert first == 0 and again % 20 == 0 and printed >= again, "it may have been killed right after it had kept it"
    assert numbers == [*range(printed), *range(again, numbers[-1] + 1)], "what it had printed stays"
    assert (ended["recoveries"], ended["exit_code"]) == (0, 0)


@pytest.mark.parametrize("who", ["agent", "server", "everyone"])
def test_whoever_is_killed_while_it_saves_itself_it_is_asked_once_and_goes_on(
    fleet: Fleet, folder: Path, who: str
) -> None:
    job = fleet.submit(saver(saving="open('asked', 'w').close(); time.sleep(2.0)"), folder, grace_s=20.0)
    job.printed()
    node, asked = job.nodes[0], job.life() / "work/asked"
    job.verb("pause", wait_s=0)
    wait_for(asked.exists, "it is asked")
    if who == "agent":
        fleet.kill_agent(node)
    else:
        fleet.kill_server() if who == "server" else fleet.kill_everyone()
        fleet.start()
    job.until("frozen")
    job.verb("resume")
    job.printed()
    ended = ends_whole(job)
    assert (ended["incarnation"], ended["rung"], ended["recoveries"]) == (2, "cooperative", 0), job.story(ended)
    assert job.err().count("asked 1 times") == 1
