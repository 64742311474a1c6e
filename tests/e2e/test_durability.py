"""A snapshot is its node's before it is remote: uploads seen, slowed down, lost with their node; memory set aside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, counter, is_whole, running, wait_for
from tests.e2e.test_snapshots import listed, outside, shown, taken

__all__ = ["outside"]
SHORT = ("--lease-s", "4", "--margin-s", "2")
BALLAST = "ballast = os.urandom(24 << 20)"
SLOW = 1000  # bytes a second


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One node that the engine looks after, with a fast way to the store."""
    with running(Fleet(tmp_path_factory.mktemp("brief") / "home", nodes=1, devices=2, options=SHORT)) as fleet:
        yield fleet


@pytest.fixture
def slow(brief: Fleet) -> Iterator[subprocess.Popen[bytes]]:
    """node-9, which reaches the store slowly and has little memory for images; nobody starts it again."""
    settings = brief.home / "store.json"
    settings.write_text(json.dumps({"upload_bytes_per_s": SLOW, "image_bytes_max": 32 << 20}))
    agent = brief.start_agent("node-9", devices=2)
    settings.unlink()
    yield agent
    agent.kill()
    agent.wait()
    brief.kill_node("node-9")
    wait_for(lambda: not brief.node("node-9").get("ready"), "its lease is out")


def test_a_node_that_is_lost_before_its_upload_ended_costs_the_work_since_the_newest_remote_snapshot_and_says_so(
    brief: Fleet, folder: Path, slow: subprocess.Popen[bytes]
) -> None:
    job = brief.submit(counter(first=BALLAST), folder)
    job.printed()
    safe = taken(job)
    job.verb("migrate", to=["node-9"])
    wait_for(lambda: listed(job)[-1]["durability"] == "remote", "what node-0 froze is in the store")
    moved = str(listed(job)[-1]["id"])
    job.printed(200)
    pending = brief.post(f"/v1/jobs/{job.id}/snapshot", {"wait_s": 60})["snapshot"]
    on_its_way = wait_for(lambda: shown(job, pending)["uploaded"] is not None and shown(job, pending), "is sent")
    assert on_its_way["durability"] == "node" and on_its_way["uploaded"] < 1  # type: ignore[index]
    said = brief.ergo("snapshot", "ls", job.id, folder=folder).stdout
    assert "node, " in said and "uploaded" in said and "remote" in said
    refused = brief.post(f"/v1/jobs/{job.id}/snapshot", {"wait_s": 60}, status=409)
    assert "wait for the shared store" in refused["error"], "back-pressure: not one more into memory"
    job.printed(100)
    brief.kill_node("node-9")
    slow.wait()
    wait_for(lambda: job.detail["recoveries"] == 1, "the job goes on elsewhere", 90)
    [stranded] = job.told("snapshot-stranded")
    assert pending in stranded and "node-9" in stranded and moved in stranded, job.story()
    again = job.told("thawed")[-1]
    assert moved in again and "done again" in again, job.story()
    assert job.detail["lost_s"] > 0 and safe != moved
    assert {one["id"]: one["out_of_reach"] for one in listed(job)}[pending] is True
    job.printed()
    job.finish()
    assert is_whole(job.out()), job.story()


def test_images_go_to_disk_where_memory_may_not_hold_them_and_thaw_from_there(
    brief: Fleet, folder: Path, slow: subprocess.Popen[bytes]
) -> None:
    job = brief.submit(counter(first="ballast = os.urandom(40 << 20)"), folder)
    job.printed()
    job.verb("migrate", to=["node-9"])
    job.printed()
    job.verb("pause")
    pending = listed(job)[-1]
    assert (brief.home / "nodes/node-9/images" / str(pending["id"])).is_dir(), "on disk"
    assert pending["durability"] == "node" and not (brief.memory / "node-9/images" / str(pending["id"])).exists()
    job.verb("resume")
    job.printed()
    job.finish()
    assert is_whole(job.out()), job.story()


def test_what_lies_on_a_node_s_disk_survives_the_machine_s_reboot_with_the_files_the_job_had_made(
    brief: Fleet, folder: Path, slow: subprocess.Popen[bytes]
) -> None:
    make = "os.path.exists('make') and (os.remove('make'), open('made', 'wb').write(b'by the job' * 100_000))"
    job = brief.submit(counter(first="ballast = os.urandom(40 << 20)", each=make), folder)
    job.printed()
    job.verb("migrate", to=["node-9"])
    (job.life() / "work/make").touch()
    job.printed()
    job.verb("pause")
    pending = listed(job)[-1]
    assert pending["durability"] == "node", "nowhere but here"
    slow.kill()
    slow.wait()
    shutil.rmtree(brief.memory / "node-9")
    again = brief.start_agent("node-9", devices=2)
    job.verb("resume")
    job.printed()
    job.finish()
    assert is_whole(job.out()) and job.file("made") == b"by the job" * 100_000, job.story()
    again.kill()
    again.wait()


def test_a_node_that_cannot_thaw_a_snapshot_is_not_chosen_and_explain_says_why(
    brief: Fleet, folder: Path, outside: Path
) -> None:
    used = outside / "table.bin"
    used.write_bytes(b"numbers")
    job = brief.submit(counter(first=f"table = open({str(used)!r}, 'rb')"), folder)
    job.printed()
    job.verb("pause")
    was = used.stat()
    used.write_bytes(b"other numbers")
    wait_for(lambda: unfit(brief, job.id), "the node has found out", 30)
    brief.post(f"/v1/jobs/{job.id}/resume", {"wait_s": 0})
    explained = wait_for(lambda: "thaw its snapshot" in brief.get(f"/v1/jobs/{job.id}/explain")["reason"], "is said")
    assert explained and str(used) in json.dumps(brief.get(f"/v1/jobs/{job.id}/explain"))
    assert not job.told("thaw-ordered"), "nobody even tried"
    assert str(used) in brief.ergo("explain", job.id, folder=folder).stdout.replace("\n", "").replace(" ", "")
    used.write_bytes(b"numbers")
    os.utime(used, ns=(was.st_atime_ns, was.st_mtime_ns))
    job.until("running")
    job.printed()
    job.finished_whole()


def unfit(fleet: Fleet, job: str) -> bool:
    found = fleet.get(f"/v1/snapshots/{job}@latest")["fits"]
    return any(one["fits"] is False for one in found)


def test_costs_are_measured_and_foretell_the_next_freeze(brief: Fleet, folder: Path) -> None:
    job = brief.submit(counter(first=BALLAST), folder)
    job.printed()
    guess = job.detail["freeze_cost_s"]
    job.verb("pause")
    frozen = job.detail
    assert frozen["freeze_cost_s"] != guess and 0 < frozen["freeze_cost_s"] < 30
    job.verb("resume")
    assert 0 < job.detail["thaw_cost_s"] < 30 and job.detail["thaw_cost_s"] != guess
    for command in ("show", "explain"):
        said = " ".join(brief.ergo(command, job.id, folder=folder).stdout.split())
        assert "more until it is remote (measured 1 time)" in said, said
    job.finished_whole()
