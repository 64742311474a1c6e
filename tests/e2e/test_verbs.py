"""pause, resume, migrate, snapshot, cancel and drain, on a real fleet: the job never notices."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.fleet import Fleet, children_of, counter, is_whole, wait_for


def test_a_paused_job_holds_no_device_and_goes_on_where_it_stood(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    job.verb("pause")
    seen = job.out()
    assert job.phase == "frozen" and fleet.get("/v1/status")["devices_used"] == 0
    assert job.out() == seen
    job.verb("resume")
    job.printed()
    assert job.finished_whole()["pauses"] == 1


def test_a_job_moves_to_the_node_that_was_named_and_back(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    here = job.nodes[0]
    there = "node-1" if here == "node-0" else "node-0"
    for node in (there, here):
        job.verb("migrate", to=[node])
        assert job.nodes == [node]
        job.printed()
    assert job.finished_whole()["moves"] == 2


def test_the_processes_of_ranks_are_named_as_their_node_counts_them(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    there = "node-1" if job.nodes[0] == "node-0" else "node-0"
    for _ in range(2):
        (told,) = wait_for(lambda: job.detail["processes"], "its process is named")
        assert (told["rank"], told["node"]) == (0, job.nodes[0])
        assert "line %d" in Path(f"/proc/{told['pid']}/cmdline").read_text(), "the command itself, no helper of ours"
        job.verb("migrate", to=[there])
    job.verb("pause")
    assert job.detail["processes"] == []
    job.verb("resume")
    job.finished_whole()


def test_a_snapshot_lets_the_job_go_on(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    taken = job.verb("snapshot")["snapshot"]
    assert [one["id"] for one in job.detail["snapshots"]] == [taken]
    assert job.finished_whole()["incarnation"] == 1


def test_cancel_sends_sigterm_and_waits_for_the_end(fleet: Fleet, folder: Path) -> None:
    code = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.02; done"
    job = fleet.submit(("/bin/sh", "-c", code), folder)
    job.printed(1)
    job.verb("cancel", grace_s=20)
    assert (job.phase, job.out()) == ("cancelled", ["ready", "asked"])


def test_cancel_kills_what_does_not_listen(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(("/bin/sh", "-c", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done"), folder)
    job.printed(1)
    job.verb("cancel", grace_s=2)
    assert (job.phase, job.out()) == ("cancelled", ["ready", "asked"])


def test_a_paused_job_is_cancelled_without_being_brought_back(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    job.verb("pause")
    job.verb("cancel")
    assert (job.phase, job.detail["incarnation"]) == ("cancelled", 1)


def test_a_drained_node_is_empty_and_takes_jobs_again(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    node = job.nodes[0]
    try:
        assert fleet.post(f"/v1/nodes/{node}/drain", {"wait_s": 60})["done"]
        job.printed()
        assert node not in job.nodes
    finally:
        fleet.post(f"/v1/nodes/{node}/undrain")
    job.finished_whole()


def test_periodic_snapshots_are_taken_by_themselves(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder, snapshot_every_s=0.3)
    wait_for(lambda: len(job.told("snapshot")) >= 3, "three snapshots are taken")
    assert job.finished_whole()["pauses"] == 0


def test_ranks_on_two_nodes_are_paused_and_brought_back_as_one(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder, ranks=5)
    job.printed(rank=4)
    assert set(job.nodes) == {"node-0", "node-1"}
    job.verb("pause")
    job.verb("resume")
    job.printed(rank=4)
    job.finish()
    assert all(is_whole(job.out(rank)) for rank in range(5)), job.story()


def test_pausing_a_job_that_has_ended_is_refused_with_its_end(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(("/bin/true",), folder)
    job.ended()
    assert "has succeeded and cannot be paused" in job.verb("pause", status=409)["error"]


CHILD = """
import signal
child = os.fork()
if child == 0:
    while True:
        with open("ticks", "ab") as ticks: ticks.write(b".")
        time.sleep(0.005)
while not os.path.exists("ticks"): time.sleep(0.01)
os.kill(child, signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
"""


def test_a_child_that_its_program_had_stopped_stays_so_over_a_move(fleet: Fleet, folder: Path) -> None:
    each = "if os.path.exists('go'): os.rename('go', 'gone'); os.kill(child, signal.SIGCONT)"
    job = fleet.submit(counter(CHILD, each, then="os.kill(child, signal.SIGKILL)"), folder)
    job.printed()
    ticks = (job.life() / "work/ticks").stat().st_size
    for verb in ("migrate", "snapshot"):
        job.verb(verb)
        job.printed(40)
        assert _state(children_of(job.main_pid())[0]) == "T"
        assert (job.life() / "work/ticks").stat().st_size == ticks, "it has not run for a moment"
    (job.life() / "work/go").touch()
    wait_for(lambda: (job.life() / "work/ticks").stat().st_size > ticks, "it goes on when it is told to")
    assert job.finished_whole()["moves"] == 1


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
