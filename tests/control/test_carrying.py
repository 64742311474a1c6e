"""What an administrator's import refuses: users, capabilities and mounts beyond those of the project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ergosphere.agent import identity, rootfs
from ergosphere.agent.identity import Identity
from ergosphere.agent.rootfs import Mount, RootPlan
from ergosphere.control.carrying import check
from ergosphere.control.verbs import Conflict
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.tree import TreeSum
from ergosphere.wire.jobs import JobSpec

OURS = Identity(frozenset({0}), frozenset({0}), 0b1111)


def manifest(rights: Identity | None = OURS, mounts: tuple[Mount, ...] = ()) -> Manifest:
    facts: dict[str, Any] = {"root": rootfs.plan_to_json(RootPlan(mounts))}
    if rights is not None:
        facts[identity.IDENTITY] = identity.to_json(rights)
    work = TreeSum("0" * 64, 0, 0)
    part = CellPart(0, "n", "10.0.0.2", "jobnet", (0,), (), work, None, (), (), facts)
    return Manifest("s", "j", 1, {}, 0.0, "asked", 0.0, "4.2", "6.18", None, (part,), {})


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    return JobSpec(command=("true",), name="guest", workdir=str(tmp_path))


@pytest.mark.parametrize(
    "rights",
    [
        OURS,
        identity.NOBODY,
        replace(OURS, caps=0b1),
    ],
)
def test_who_asks_for_no_more_than_the_project_has_is_let_in(spec: JobSpec, rights: Identity) -> None:
    check(manifest(rights), spec, OURS, ())


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        (replace(OURS, uids=frozenset({0, 1000})), "user ids 0, 1000"),
        (replace(OURS, gids=frozenset({7})), "group ids 7"),
        (replace(OURS, caps=0b10000), "capabilities 0x10"),
        (None, "does not say"),
    ],
)
def test_who_asks_for_more_is_refused_and_it_is_said_what(spec: JobSpec, rights: Identity | None, said: str) -> None:
    with pytest.raises(Conflict, match=said):
        check(manifest(rights), spec, OURS, ())


def test_a_mount_that_a_job_here_would_not_have_must_be_named(spec: JobSpec) -> None:
    asked = manifest(mounts=(Mount("bind", "/data", "/etc", writable=True), Mount("tmpfs", "/tmp", writable=True)))
    with pytest.raises(Conflict, match="/etc mounted at /data to write") as no:
        check(asked, spec, OURS, ())
    assert no.value.remedy.startswith("allow it with --allow-mount /etc")
    check(asked, spec, OURS, ("/etc",))


def test_the_mounts_that_every_job_has_need_no_leave(spec: JobSpec) -> None:
    usual = rootfs.make_plan(rootfs.RootSpec(workdir=spec.workdir, hidden=("/var/tmp",)))
    check(manifest(mounts=usual.mounts), spec, OURS, ())


def test_a_job_of_several_cells_is_refused(spec: JobSpec) -> None:
    one = manifest()
    two = replace(one, cells=(*one.cells, replace(one.cells[0], index=1)))
    with pytest.raises(Conflict, match="2 cells"):
        check(two, spec, OURS, ())
