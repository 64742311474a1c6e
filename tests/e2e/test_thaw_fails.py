"""A node on which CRIU cannot restore: jobs come up elsewhere, and where there is nowhere else they wait, whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.fleet import Fleet, counter, wait_for


@contextmanager
def without_criu(fleet: Fleet, node: str) -> Iterator[None]:
    """The node's CRIU is gone, as far as the node can tell."""
    link = fleet.memory / node / "criu" / "criu"
    target = link.readlink()
    link.unlink()
    link.symlink_to("/nowhere")
    try:
        yield
    finally:
        link.unlink()
        link.symlink_to(target)


def test_a_job_that_does_not_come_up_on_one_node_comes_up_on_another(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    home = job.nodes[0]
    (other,) = {"node-0", "node-1"} - {home}
    job.verb("pause")
    with without_criu(fleet, home):
        job.verb("resume")
        job.printed()
        assert job.nodes == [other], job.story()
        job.verb("migrate", to=[home])
        job.printed()
        assert job.nodes == [other], job.story()
    ended = job.finished_whole()
    assert (ended["recoveries"], ended["lost_s"]) == (0, 0.0)
    assert any("it is tried elsewhere than on" in text for text in job.told("thaw-failed")), job.story()


def test_a_job_that_comes_up_nowhere_waits_with_its_snapshot_and_goes_on_when_it_can(
    fleet: Fleet, folder: Path
) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    job.verb("pause")
    with without_criu(fleet, "node-0"), without_criu(fleet, "node-1"):
        job.verb("resume", wait_s=0)
        wait_for(lambda: len(job.told("thaw-failed")) >= 3, "three tries failed")
        assert job.detail["phase"] in ("frozen", "thawing") and job.detail["snapshots"], job.story()
    job.verb("resume")
    ended = job.finished_whole()
    assert (ended["recoveries"], ended["lost_s"]) == (0, 0.0)
