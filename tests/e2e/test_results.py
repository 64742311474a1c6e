"""What a job leaves behind comes home, whatever the store does while the job ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, Job, counter, is_whole, small, wait_for


def ends_with_a_file(fleet: Fleet, folder: Path) -> Job:
    job = fleet.submit(counter(then="open('made.txt', 'w').write('precious')"), folder)
    job.printed()
    return job


@contextmanager
def store_away(fleet: Fleet) -> Iterator[None]:
    store, aside = fleet.home / "store", fleet.home / "store.aside"
    store.rename(aside)
    try:
        yield
    finally:
        aside.rename(store)


def waits_for_the_store(job: Job, because: str) -> None:
    """It has ended, nothing of it runs, and it says what its results wait for."""
    for work in job.fleet.home.glob(f"nodes/*/lives/{job.id}.*/work"):
        (work / "stop").touch()
    found = wait_for(lambda: (now := job.detail)["phase"] == "ending" and because in now["reason"] and now, because)
    assert "its results are not home yet" in found["reason"] and found["remedy"], found
    assert job.detail["devices"] == 0, "others may have its devices"
    groups = [group for node in job.nodes for above in job.fleet.group(node) for group in above.glob(f"{job.id}.*")]
    assert not groups, "no process is left of it, and nothing that kept them"


def came_home(job: Job) -> None:
    ended = job.ended("succeeded")
    assert job.file("made.txt") == b"precious" and is_whole(job.out()), job.story(ended)
    assert "home" not in ended["reason"] and len(job.told("results-wait")) >= 1


def test_results_wait_for_a_store_that_is_away(fleet: Fleet, folder: Path) -> None:
    job = ends_with_a_file(fleet, folder)
    with store_away(fleet):
        waits_for_the_store(job, "is not a store")
        told = fleet.ergo("explain", job.id, folder=folder).stdout
        assert "not home yet" in told, told
    came_home(job)


def test_results_wait_for_room_in_the_store(fleet: Fleet, folder: Path) -> None:
    job = ends_with_a_file(fleet, folder)
    with small(fleet.home / "store" / ".aside", "4k"):
        (fleet.home / "store" / ".aside" / "fill").write_bytes(b"x" * 4096)
        waits_for_the_store(job, "no room is left")
    came_home(job)


@pytest.mark.parametrize("who", ["server", "agent"])
def test_results_that_wait_outlive_the_death_of(fleet: Fleet, folder: Path, who: str) -> None:
    job = ends_with_a_file(fleet, folder)
    with store_away(fleet):
        waits_for_the_store(job, "is not a store")
        if who == "server":
            fleet.kill_server()
        else:
            fleet.kill_agent(job.nodes[0])
    if who == "server":
        fleet.start()
    came_home(job)


def test_results_that_will_never_come_home_can_be_given_up(fleet: Fleet, folder: Path) -> None:
    job = ends_with_a_file(fleet, folder)
    with store_away(fleet):
        waits_for_the_store(job, "is not a store")
        job.verb("cancel", grace_s=0)
        ended = job.ended("succeeded")
    assert "its owner gave them up" in ended["reason"]
    asked = fleet.api("GET", f"/v1/jobs/{job.id}/results")
    assert asked.status_code == 409 and "gave them up" in asked.json()["error"]
