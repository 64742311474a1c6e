"""One fleet for all tests of this folder, and fleets of a test's own for what would harm the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, running, wait_for


@pytest.fixture(scope="session")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(Fleet(tmp_path_factory.mktemp("fleet") / "home")) as fleet:
        yield fleet
        wait_for(lambda: not fleet.holds_images(), "the images of jobs that have ended are let go")


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Iterator[Fleet]:
    """The shared fleet, with no job in it before and after."""
    yield shared_fleet
    for job in shared_fleet.get("/v1/jobs"):
        shared_fleet.post(f"/v1/jobs/{job['id']}/cancel", {"grace_s": 0})
    wait_for(lambda: not shared_fleet.get("/v1/jobs"), "all jobs are cancelled")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A submitter's working directory."""
    made = tmp_path / "project"
    made.mkdir()
    return made
