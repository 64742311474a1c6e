"""Snapshots as things people use: named, rolled back to, forked; on a real fleet with real images."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, Job, counter, is_whole, python, wait_for

LINES_PER_S = 200  # of a counter at most: it sleeps 5 ms after each


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder of the node that jobs see: not below /tmp, of which each rank has its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


def taken(job: Job, name: str = "") -> str:
    """A snapshot that has reached the shared store; its id."""
    job.until("running")  # its first lines can be here before the server has heard that it runs
    made = job.fleet.post(f"/v1/jobs/{job.id}/snapshot", {"wait_s": 60, "name": name})["snapshot"]
    wait_for(lambda: shown(job, made)["durability"] == "remote", f"{made} is in the shared store")
    return str(made)


def forked(job: Job, snapshot: str, asked: dict[str, object]) -> Job:
    path = f"/v1/snapshots/{job.id}@{snapshot}/fork"
    return Job(job.fleet, job.fleet.post(path, {"wait_s": 60, **asked}, status=201)["job"]["id"])


def shown(job: Job, snapshot: str) -> dict[str, object]:
    return dict(job.fleet.get(f"/v1/snapshots/{job.id}@{snapshot}"))


def listed(job: Job) -> list[dict[str, object]]:
    return list(job.fleet.get(f"/v1/snapshots?job={job.id}"))


def test_a_snapshot_is_first_its_nodes_and_then_remote_and_says_what_is_in_it(fleet: Fleet, folder: Path) -> None:
    (folder / "data.txt").write_text("some data\n" * 100)
    job = fleet.submit(counter(first="ballast = os.urandom(8 << 20)"), folder)
    job.printed()
    made = taken(job, "first")
    detail = shown(job, made)
    kinds = {kind["kind"]: kind for kind in detail["kinds"]}  # type: ignore[attr-defined]
    assert kinds["memory"]["bytes"] > 8 << 20
    assert kinds["files"]["bytes"] >= 1000
    assert detail["needs"]["criu"] and detail["needs"]["files"] > 0  # type: ignore[index]
    assert listed(job)[-1]["name"] == "first"
    job.finished_whole()


def test_a_job_is_rolled_back_to_its_snapshot_and_nothing_of_that_counts_as_lost(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    made = taken(job, "early")
    here = len(job.out())
    job.printed(400)
    began_s = time.monotonic()
    result = fleet.post(f"/v1/snapshots/{job.id}@early/restore", {"wait_s": 60})
    assert result["done"], job.story()
    assert job.told("roll-back") and job.detail["incarnation"] == 2
    assert job.detail["lost_s"] == 0 and job.detail["lost_lines"] == 0 and job.detail["recoveries"] == 0
    assert job.told("thawed")[-1].count(made), job.story()
    lines = len(job.out())
    assert lines <= here + LINES_PER_S * (time.monotonic() - began_s), "the log was cut back"
    job.printed()
    job.finished_whole()


def test_a_fork_goes_on_from_the_same_instant_with_files_memory_and_variables_of_its_own(
    fleet: Fleet, folder: Path
) -> None:
    each = """
    with open("state", "a") as state:
        state.write("%d\\n" % number)
    if os.path.exists("/run/ergo/fork.json"):
        import json
        os.write(2, json.load(open("/run/ergo/fork.json"))["env"]["RATE"].encode() + b"\\n")
        """
    job = fleet.submit(counter(each=each, first="here = os.getpid()"), folder, env={"RATE": "1"})
    job.printed()
    made = taken(job)
    asked = {"name": "branch", "env": {"RATE": "2", "SECRET": "word"}, "wait_s": 60}
    fork = forked(job, made, asked)
    fork.until("running")
    fork.printed()
    job.printed()
    assert fork.detail["forked_from"] == f"{job.id}@{made}"
    assert fork.detail["fork_names"] == ["RATE", "SECRET"]
    assert "word" not in json.dumps(fork.detail) and "SECRET" in fork.detail["env_names"]
    told = wait_for(fork.err, "what it was given has reached the server")
    assert set(told.splitlines()) == {"2"} and job.err() == ""
    first, second = job.life(), fork.life()
    assert (first / "work/state").read_bytes() != (second / "work/state").read_bytes()
    job.finished_whole()
    fork.printed()
    assert fork.phase == "running", "the end of the first is nothing to the second"
    fork.finish()
    assert is_whole(fork.out()), fork.story()
    both = min(len(job.out()), len(fork.out())) - 1  # less "done"
    assert fork.out()[:both] == job.out()[:both]


def test_a_fork_and_its_origin_keep_servers_at_the_same_address_and_port(fleet: Fleet, folder: Path) -> None:
    server = python(
        "import os, socket, threading, time\n"
        "address = (os.environ['ERGO_ADDRESS'], 4711)\n"
        "listening = socket.create_server(address)\n"
        "def serve():\n"
        "    while True:\n"
        "        peer = listening.accept()[0]; peer.sendall(b'%d' % number); peer.close()\n"
        "number = 0\n"
        "threading.Thread(target=serve, daemon=True).start()\n"
        "while not os.path.exists('stop'):\n"
        "    with socket.create_connection(address) as peer: heard = peer.recv(100)\n"
        "    assert heard == b'%d' % number, heard\n"
        "    os.write(1, b'line %d\\n' % number); number += 1; time.sleep(0.01)\n"
        "os.write(1, b'done\\n')\n"
    )
    job = fleet.submit(server, folder)
    job.printed()
    taken(job)
    fork = forked(job, "latest", {"name": "twin"})
    fork.until("running")
    for one in (job, fork, job, fork):
        one.printed(20)
    assert fork.detail["addresses"] != job.detail["addresses"]
    fork.verb("pause")
    fork.verb("resume")
    fork.printed()
    for one in (job, fork):
        one.finish()
        assert is_whole(one.out()), one.story()


def test_what_cannot_be_forked_is_refused_with_what_to_do(fleet: Fleet, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    job = fleet.submit(counter(), folder, mounts=(f"{tmp_path}/shared:rw",))
    job.printed()
    made = taken(job)
    said = fleet.post(f"/v1/snapshots/{job.id}@{made}/fork", {"name": "second"}, status=409)
    assert "shared" in said["error"] and "--share" in said["remedy"]
    asked = {"name": "second", "share": True, "wait_s": 60}
    fork = forked(job, made, asked)
    fork.until("running")
    fork.printed()
    assert fleet.post(f"/v1/snapshots/{job.id}@nothing/fork", {"name": "x"}, status=404)["error"].count(made)
    fork.finish()
    job.finished_whole()


def test_named_snapshots_are_kept_and_the_others_as_many_as_the_job_wants(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder, keep_snapshots=3)
    job.printed()
    named = taken(job, "good")
    others = [taken(job) for _ in range(4)]
    assert [one["id"] for one in listed(job)] == [named, *others[-3:]]
    refused = fleet.post(f"/v1/jobs/{job.id}/snapshot", {"name": "good"}, status=409)
    assert "ergo snapshot rm" in refused["remedy"]
    job.finished_whole()
    assert [one["id"] for one in listed(job)] == [named], "named ones outlive their job"
    fork = forked(job, "good", {"name": "later"})
    fork.until("running")
    assert fleet.api("DELETE", f"/v1/snapshots/{job.id}@good").status_code == 204
    fork.printed()
    fork.finish()
    assert is_whole(fork.out()), fork.story()


def test_two_snapshots_are_compared_checked_and_swept(fleet: Fleet, folder: Path) -> None:
    each = "open('numbers', 'a').write('%d ' % number) if number % 50 == 0 else None"
    job = fleet.submit(counter(each=each, first="ballast = os.urandom(8 << 20)"), folder)
    job.printed(60)
    first = taken(job)
    job.printed(120)
    second = taken(job)
    found = fleet.get(f"/v1/snapshots/{job.id}@{first}/diff?to={job.id}@{second}")
    assert {"path": "numbers", "change": "changed"} in found["files"]
    assert found["logs"]["rank0.out"] > 0
    assert found["memory_shared"] > 0.5 * found["memory_bytes"] > 1 << 20
    detail = shown(job, second)
    assert 0 < detail["alone"] < detail["stored"]  # type: ignore[operator]
    report = fleet.post("/v1/store/fsck", {"read": True})
    assert report["ok"] and report["snapshots"] >= 2, report
    job.finished_whole()
    swept = fleet.post("/v1/store/gc", {"dry_run": True})
    assert swept["dry_run"] and first in swept["snapshots"]
    said = fleet.ergo("snapshot", "gc", folder=folder)
    assert said.returncode == 0 and "went" in said.stdout, said.stderr
    assert fleet.post("/v1/store/gc", {"dry_run": True})["snapshots"] == []


def test_a_snapshot_leaves_as_one_file_and_comes_back_as_another_job(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    taken(job, "good")
    said = fleet.ergo("snapshot", "export", f"{job.id}@good", "good.ergo", folder=folder)
    assert said.returncode == 0 and "every password" in said.stderr and "good.ergo.key" in said.stderr, said.stderr
    assert (folder / "good.ergo").stat().st_mode & 0o077 == 0 == (folder / "good.ergo.key").stat().st_mode & 0o077
    again = fleet.ergo("snapshot", "export", f"{job.id}@good", "good.ergo", folder=folder)
    assert again.returncode == 6 and "exists already" in again.stderr
    job.finished_whole()
    said = fleet.ergo("snapshot", "import", "good.ergo", "--name", "guest", folder=folder)
    assert said.returncode == 0, said.stderr
    guest = Job(fleet, "guest")
    guest.until("running")
    guest.id = guest.detail["id"]
    guest.printed()
    guest.finish()
    assert is_whole(guest.out()), guest.story()


def test_an_archive_that_was_tampered_with_or_asks_for_more_than_its_project_has_is_refused(
    fleet: Fleet, folder: Path, outside: Path
) -> None:
    job = fleet.submit(counter(), folder, mounts=(f"{outside}:rw",))
    job.printed()
    taken(job)
    assert fleet.ergo("snapshot", "export", f"{job.id}@latest", "x.ergo", folder=folder).returncode == 0
    said = fleet.ergo("snapshot", "import", "x.ergo", "--name", "guest", folder=folder)
    assert said.returncode == 6 and f"--allow-mount {outside}" in said.stderr, said.stderr
    whole = (folder / "x.ergo").read_bytes()
    for place in (len(whole) // 3, len(whole) // 2):
        (folder / "x.ergo").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        spoilt = fleet.ergo("snapshot", "import", "x.ergo", "--name", "g", "--allow-mount", str(outside), folder=folder)
        assert spoilt.returncode == 6 and "error:" in spoilt.stderr, spoilt.stderr
    (folder / "x.ergo").write_bytes(whole[: len(whole) // 2])
    assert fleet.ergo("snapshot", "import", "x.ergo", "--name", "guest", folder=folder).returncode == 6
    (folder / "x.ergo").write_bytes(whole)
    (folder / "x.ergo.key").write_text("default = " + "0" * 64)
    wrong = fleet.ergo("snapshot", "import", "x.ergo", "--name", "guest", folder=folder)
    assert wrong.returncode == 6 and "key" in wrong.stderr, wrong.stderr
    assert [one["name"] for one in fleet.get("/v1/jobs")] == [job.detail["name"]]
    assert fleet.post("/v1/store/fsck", {"read": True})["ok"], "no good snapshot was harmed"
    job.finished_whole()


RATES = """
import os, time
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, total, over = dist.get_rank(), torch.zeros(8), torch.zeros(1)
while not over.item():
    over.fill_(float(rank == 0 and os.path.exists("stop")))
    dist.all_reduce(over)
    rate = os.environ["RATE"]
    part = torch.full((8,), float(rate))
    dist.all_reduce(part)
    total += part
    print(rate, float(total[0]), flush=True)
    time.sleep(0.02)
"""


def totals(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines]


def test_ranks_of_a_fork_find_what_it_was_given_in_their_environment(fleet: Fleet, folder: Path) -> None:
    (folder / "rates.py").write_text(RATES)
    command = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "rates.py")
    job = fleet.submit(command, folder, env={"RATE": "1"})
    job.printed(20)
    taken(job)
    fork = forked(job, "latest", {"name": "faster", "env": {"RATE": "100"}})
    fork.until("running")
    fork.printed(20)
    job.printed(20)
    for one in (job, fork):
        one.finish()
    assert {line.split()[0] for line in job.out()} == {"1"}
    said = [line.split() for line in fork.out()]
    turn = next(number for number, (rate, _) in enumerate(said) if rate == "100")
    assert all(rate == "1" for rate, _ in said[:turn]) and all(rate == "100" for rate, _ in said[turn:])
    assert said[:turn] == [line.split() for line in job.out()[:turn]], "the same past"
    assert float(said[-1][1]) - float(said[turn][1]) == 200 * (len(said) - 1 - turn), "both ranks, from then on"
    assert totals(fork.out(1)) == totals(fork.out(0)), "only the one step they were cut in may have mixed rates"
