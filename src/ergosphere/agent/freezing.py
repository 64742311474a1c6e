"""How a cell on this node becomes its part of a snapshot: suspended, examined, dumped, hashed, uploaded.

`dump` is all that happens while the job stands still; `seal` and `settle` come behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from ergosphere.agent import (
    beginning,
    criu_log,
    ending,
    identity,
    lives,
    obstacles,
    requirements,
    reserving,
    rootfs,
    settling,
    spilling,
    written,
)
from ergosphere.agent.criu import Dump
from ergosphere.agent.cut_port import LocalRank
from ergosphere.agent.cut_view import RankState
from ergosphere.agent.keeper import filesystems
from ergosphere.agent.keepers import Keeper, KeptRank
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.node import Dumped, Node
from ergosphere.agent.place import CellKey
from ergosphere.agent.ports import Refused
from ergosphere.snapshots import gather, manifest, mapped
from ergosphere.snapshots.digests import Follower
from ergosphere.snapshots.manifest import MappedFile
from ergosphere.wire.agents import CellPlan

MAIN_PID: Final = 2  # init's first child, the command itself, by its number inside
SIGKILL_BIT: Final = 1 << (signal.SIGKILL - 1)
DUMP_S_MAX: Final = 280.0  # below the keepers' own deadline
KERNELS: Final = ("/dev", "/proc", "/sys")


def holdable(node: Node, folder: LifeFolder) -> list[int]:
    """The ranks to be brought to a cut: all of them. One without a shim (yet) holds as soon as it has one.

    Raises Refused when a rank has ended: its peers would be held for nothing.
    """
    keeper, record = _kept(node, folder)
    _alive(keeper)
    return list(record.seat.ranks)


def faults(folder: LifeFolder, seat: CellPlan) -> dict[int, str]:
    """Failed collectives that a shim keeps its caller in, by rank."""
    found = {}
    for rank in seat.ranks:
        try:
            fault = LocalRank(folder.control(rank)).view().fault
        except OSError:
            continue
        if fault:
            found[rank] = fault
    return found


def _kept(node: Node, folder: LifeFolder) -> tuple[Keeper, LifeRecord]:
    keeper, record = node.keeper(folder.key), folder.read()
    if keeper is None or record is None:
        raise Refused("the keeper of the cell is gone, and the ranks with it")
    return keeper, record


def suspend(node: Node, folder: LifeFolder, freeze_id: str, deadline_s: float, on_commit: str) -> None:
    """Hold every rank by its own cgroup. The keeper resolves the freeze by itself if we do not come back in time."""
    keeper, _ = _kept(node, folder)
    resolve = [node.python, "-P", "-m", "ergosphere.snapshots.resolve", node.store_url, freeze_id]
    if node.place.credentials.exists():
        resolve.append(str(node.place.credentials))
    keeper.suspend(freeze_id, deadline_s, resolve, "kill" if on_commit == "kill" else "release")


def _alive(keeper: Keeper) -> tuple[KeptRank, ...]:
    ranks = keeper.state().ranks
    gone = [rank.rank for rank in ranks if rank.state == "exited"]
    if gone:
        raise Refused(f"rank {gone[0]} has ended, so the job can no longer be frozen as a whole")
    return ranks


def _pids(node: Node, key: CellKey, rank: int) -> frozenset[int]:
    return node.freezer(node.place.rank_group(key, rank)).pids()


def examine(node: Node, folder: LifeFolder) -> None:
    """Raises Refused for what CRIU could not dump, or could dump but never restore."""
    keeper, _ = _kept(node, folder)
    for kept in _alive(keeper):
        _check_alive(kept.rank, _pids(node, folder.key, kept.rank))
        _check_not_ending(node, folder, kept.rank)
        found = obstacles.obstacles(kept.pid, _pids(node, folder.key, kept.rank))
        if found:
            if not found[0].passes:
                folder.note(f"rank {kept.rank}: {found[0].cause}")
            raise Refused(f"rank {kept.rank}: {found[0].cause}", remedy=found[0].remedy, lasting=not found[0].passes)


def _check_alive(rank: int, pids: frozenset[int]) -> None:
    """A rank that was killed an instant before it was held must not become a snapshot: it would die at every thaw."""
    for pid in pids:
        with suppress(OSError):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if int(status["NSpid"].split()[-1]) <= MAIN_PID and _is_doomed(status):
                raise Refused(f"rank {rank} has just been killed")
    if not any(_number_inside(pid) == MAIN_PID for pid in pids):
        raise Refused(f"rank {rank} has just ended")


def _check_not_ending(node: Node, folder: LifeFolder, rank: int) -> None:
    """A rank whose program is over takes part in no cut any more: what it shares with its peers is still open."""
    try:
        is_over = LocalRank(folder.control(rank)).view().state is RankState.GONE
    except OSError:
        return
    shared = node.place.shared(folder.key.job, folder.key.incarnation)
    held = (path for pid in _pids(node, folder.key, rank) for path in Path(f"/proc/{pid}/fd").glob("*"))
    if is_over and _file_ids(held) & _file_ids(shared.glob("*")):
        raise Refused(f"rank {rank} has come to the end of its program and is about to exit")


def _file_ids(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and inode of what lies, or is open, at these paths."""
    found = set()
    for path in paths:
        with suppress(OSError):  # closed or removed meanwhile
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return found


def _number_inside(pid: int) -> int:
    """The process's number in its own PID namespace; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


def _is_doomed(status: Mapping[str, str]) -> bool:
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return status["State"][0] in "ZX" or bool(pending & SIGKILL_BIT)


def dump(node: Node, folder: LifeFolder, freeze_id: str, *, periodic: bool = False, newcomer_bytes: int = 0) -> None:
    """Images of all ranks to memory (or disk where memory is short), changed files copied, log lengths noted.

    Of a `periodic` one nothing is hashed along: the job waits for nothing but CRIU and the copies.
    """
    keeper, record = _kept(node, folder)
    ranks = _alive(keeper)
    pids = {kept.rank: _pids(node, folder.key, kept.rank) for kept in ranks}
    everyone = frozenset[int]().union(*pids.values())
    distrust = mapped.writable_maps(everyone)
    plan = _root_plan(folder)
    root = rootfs.plan_to_json(plan)
    targets = filesystems.targets_of(root["mounts"])
    known = {kept.rank: _filesystems(targets, record, kept) for kept in ranks}
    files = beginning.files_of(folder, record.seat)
    wanted = sum(reserving.resident_bytes(each) for each in pids.values())
    changed = reserving.changed_bytes(files, node.pool(folder.key), distrust)
    if periodic:
        settling.check_backlog(node, folder.key.job, wanted + changed)
    with ExitStack() as undo:
        undo.callback(settling.drop, node, freeze_id)
        images = room(node, folder.key, freeze_id, wanted, changed, newcomer_bytes)
        for kept in ranks:  # what an agent left that died in the middle of this very freeze
            shutil.rmtree(images / f"rank{kept.rank}", ignore_errors=True)
        # Hashing along with CRIU pays only on a core of its own.
        spare = not periodic and 2 * len(ranks) <= len(node.cores.cores)
        followers = {kept.rank: _follow(images, kept.rank, undo) for kept in ranks if spare}
        _dump_ranks(node, folder, record, keeper, ranks, images)
        for kept in ranks:
            _check_alive(kept.rank, pids[kept.rank])
        staged = gather.stage_cell(files, node.pool(folder.key), distrust=distrust)
        undo.pop_all()
    parked = set(_parked(folder, record.seat))
    node.dumped[(freeze_id, folder.key)] = Dumped(
        staged=staged,
        images=images,
        facts={rank: {"parked": rank in parked, lives.FILESYSTEMS: numbers} for rank, numbers in known.items()},
        mapped=_outside_files(plan, everyone),
        written=written.noted(everyone, plan),
        followers=followers,
        root=root,
        identity=identity.of_processes(everyone),
    )
    settling.written(node, freeze_id)


def room(node: Node, key: CellKey, freeze_id: str, image: int, changed: int, newcomer: int) -> Path:
    """Where the images go. Changed files go where they go; a pool that is on disk already takes none of the memory.

    Raises Refused where neither memory nor disk has room for the files.
    """
    on_disk = node.pool(key).folder.parent == node.place.disk_pools
    images = settling.room_for(node, freeze_id, key.job, image + (0 if on_disk else changed), newcomer)
    if on_disk or images.parent == node.place.disk_images:
        spilling.pool_to_disk(node, key, changed)
    return images


def _outside_files(plan: rootfs.RootPlan, pids: frozenset[int]) -> tuple[MappedFile, ...]:
    """What must be the same at a thaw: files in use that the job cannot have changed, bound ones (.venv) among them."""
    found = mapped.outside_files(pids, inside=KERNELS)
    return tuple(file for file in found if rootfs.is_hosts(plan, file.path, writable=False))


def _follow(images: Path, rank: int, undo: ExitStack) -> Follower:
    """Hashes a rank's pages while CRIU writes them."""
    follower = Follower(_rank_images(images, rank))
    undo.callback(follower.stop)
    return follower


def _parked(folder: LifeFolder, seat: CellPlan) -> list[int]:
    """Ranks that wait for a go: those whose shim has said ready."""
    return [rank for rank in seat.ranks if LocalRank(folder.control(rank)).view().state is RankState.READY]


def _root_plan(folder: LifeFolder) -> rootfs.RootPlan:
    """The mounts this life was launched with; a thaw elsewhere needs the same."""
    return rootfs.plan_from_json(json.loads((folder.path / "root.json").read_text()))


def _filesystems(targets: set[str], record: LifeRecord, kept: KeptRank) -> list[int]:
    """Every number that this rank has known a file system in memory by."""
    try:
        return sorted({*record.filesystems.get(kept.rank, ()), *filesystems.seen(kept.pid, targets)})
    except OSError as error:
        raise Refused(f"rank {kept.rank} has just ended") from error


def _rank_images(images: Path, rank: int) -> Path:
    folder = images / f"rank{rank}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _dump_ranks(
    node: Node, folder: LifeFolder, record: LifeRecord, keeper: Keeper, ranks: Sequence[KeptRank], images: Path
) -> None:
    _, net = beginning.networks(node, folder.key, record.plan, record.seat)
    inode = Path(net.netns).stat().st_ino if net.netns else None
    mounts = tuple(rootfs.dump_externals(_root_plan(folder)))

    def dump_one(kept: KeptRank) -> None:
        at = _rank_images(images, kept.rank)
        group = node.freezer(node.place.rank_group(folder.key, kept.rank)).path
        argv = node.criu.dump_argv(Dump(kept.pid, at, group, mounts, inode))
        ran = keeper.dump(kept.rank, argv, str(at), DUMP_S_MAX, str(at / "criu.out"))
        if ran.timed_out:
            raise Refused(f"rank {kept.rank}: CRIU did not finish within {DUMP_S_MAX:.0f} s")
        if ran.rc != 0:
            _check_alive(kept.rank, _pids(node, folder.key, kept.rank))  # no fault of a program that was killed
            failure = criu_log.explain_file(at / "dump.log", ran.rc)
            raise Refused(f"rank {kept.rank}: {failure.cause}", remedy=failure.remedy, lasting=not failure.passes)

    with ThreadPoolExecutor(max_workers=max(1, min(len(ranks), os.cpu_count() or 1))) as pool:
        list(pool.map(dump_one, ranks))


def seal(node: Node, folder: LifeFolder, freeze_id: str) -> dict[str, Any]:
    """Hash images and staged files; the cell's part of the manifest as JSON. The freeze stays in `dumped` until its
    verdict (`settle` or `forget`): nobody takes its images for left over.
    """
    record = folder.read()
    dumped = node.dumped.get((freeze_id, folder.key))
    if dumped is None or record is None:
        raise Refused("the agent was restarted between the dump and its commit")
    if dumped.part is not None:
        return dumped.part
    seat = record.seat
    facts = gather.CellFacts(
        index=seat.index,
        node=seat.node,
        address=seat.known_as or seat.address,
        netns_key="jobnet",
        devices=seat.devices,
        mapped=dumped.mapped,
        facts=_facts(node, dumped),
    )
    part = gather.build(
        dumped.staged,
        facts,
        dumped.images,
        dumped.facts,
        node.pool(folder.key),
        {rank: follower.finish() for rank, follower in dumped.followers.items()},
    )
    dumped.part = manifest.encode_cell(part)
    return dumped.part


def _facts(node: Node, dumped: Dumped) -> dict[str, Any]:
    """What a thaw has to know of the cell. Files alone need nothing of the node where they go on."""
    needs = {} if dumped.begins_anew else {requirements.NEEDS: requirements.needs(node, dumped.mapped)}
    return {
        "root": dumped.root,
        identity.IDENTITY: identity.to_json(dumped.identity),
        written.WRITTEN: written.to_json(dumped.written),
        **needs,
    }


def release(node: Node, folder: LifeFolder, freeze_id: str) -> None:
    """Let the originals go on; what a failed freeze has left in memory goes."""
    keeper, _ = _kept(node, folder)
    if freeze_id in keeper.state().holds:
        keeper.release(freeze_id)


def forget(node: Node, key: CellKey, freeze_id: str) -> None:
    """A freeze came to nothing: what it has left in memory goes."""
    dumped = node.dumped.pop((freeze_id, key), None)
    if dumped is not None:
        for follower in dumped.followers.values():
            follower.stop()
        gather.discard(dumped.staged)
    settling.drop(node, freeze_id)


def retire(node: Node, key: CellKey, freeze_id: str) -> None:
    """After the commit: the snapshot is the job. The network is held already, so that no peer hears the end."""
    keeper = node.keeper(key)
    if keeper is not None and freeze_id in keeper.state().holds:
        keeper.kill(freeze_id)
    node.shipper.flush(LifeFolder(node.place.life(key)))  # its last lines are read while it is frozen
    ending.discard(node, key)
