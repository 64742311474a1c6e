"""How a cell of a snapshot comes to life on this node: fetched and verified, restored suspended, let go together."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final, TypeVar

from ergosphere.agent import (
    beginning,
    calls,
    criu_log,
    cut,
    identity,
    images,
    lives,
    requirements,
    rootfs,
    saving,
    sharing,
    storing,
    streaming,
    written,
)
from ergosphere.agent.criu import Restore
from ergosphere.agent.cut_port import LocalRank
from ergosphere.agent.keepers import KeeperRefused, RestoreRank
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.node import Node
from ergosphere.agent.place import CellKey, Place
from ergosphere.agent.ports import DamagedSnapshot, Refused
from ergosphere.snapshots import manifest
from ergosphere.snapshots import thawing as files
from ergosphere.snapshots.errors import Damaged, NotFound, StoreUnreachable, look_again
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.wrappers import Around, Call
from ergosphere.wire.agents import CellPlan, LifePlan

RESTORE_S_MAX: Final = 280.0
MISSING_S: Final = 3.0  # before what is missing is looked for again: lists of stores lag behind by a second or two
NET_FD: Final = 20  # where CRIU finds the job's network namespace

T = TypeVar("T")

log = logging.getLogger(__name__)


def _manifest(body: dict[str, Any]) -> Manifest:
    return manifest.from_json(str(body["manifest"]).encode())


def fetch(node: Node, life: LifePlan, seat: CellPlan, body: dict[str, Any]) -> None:
    """Images, files and logs of the cell, verified; its network held; its keeper. Raises DamagedSnapshot."""
    snapshot = _manifest(body)
    part = snapshot.cell(seat.index)
    _check_fitness(node, snapshot, part)
    parked = tuple(rank.rank for rank in part.ranks if rank.facts.get("parked"))
    lengths = snapshot.log_lengths()
    record = LifeRecord(
        plan=life,
        cell=seat.index,
        snapshot=snapshot.id,
        begins_anew=snapshot.begins_anew,
        log_base=lengths,
        parked=parked,
        filesystems={rank.rank: tuple(rank.facts.get(lives.FILESYSTEMS, ())) for rank in part.ranks},
    )
    folder = lives.create(node.place, record)
    with ThreadPoolExecutor(max_workers=4) as pool:
        came = pool.submit(_follow, node, folder.key, snapshot, part).result
        tasks = (
            pool.submit(_twice, node, lambda: _fetch_images(node, folder.key, snapshot, part, record, came())),
            pool.submit(_twice, node, lambda: _fetch_files(node, folder, snapshot, part, record, came())),
            pool.submit(_prepare_world, node, folder, record),
        )
    for task in tasks:
        _whole(task.result)


def _twice(node: Node, fetched: Callable[[], object]) -> None:
    """A snapshot that is called damaged is not used again before `ergo snapshot fsck`: one look is not enough."""
    look_again(fetched, lambda: node.clock.sleep(MISSING_S))


def _follow(node: Node, key: CellKey, snapshot: Manifest, part: CellPart) -> tuple[Store, ...]:
    """What could be fetched before the snapshot was remote, where only the store leads to the node that took it."""
    if _shares_memory(node, part.node):
        return ()
    folder = thaw_folder(node, key, 0).parent / "arrival"
    shutil.rmtree(folder, ignore_errors=True)
    return storing.follow(node, snapshot, part, folder)


def _shares_memory(node: Node, other: str) -> bool:
    """Whether that node's images and pools can be read from here: it is one of this machine's agents."""
    place = node.place.other(other)
    return place.memory.is_dir() and place.node_dir.is_dir()


def _fetch_files(
    node: Node, folder: LifeFolder, snapshot: Manifest, part: CellPart, record: LifeRecord, came: Sequence[Store]
) -> None:
    cell_files = beginning.files_of(folder, record.seat)
    near = [*_near(node, folder.key), *came, *storing.sources(node, snapshot, part)]
    files.restore_files(part, cell_files, node.pool(folder.key), node.store, near)
    beginning.furnish(node, folder, record.plan, record.seat)


def _prepare_world(node: Node, folder: LifeFolder, record: LifeRecord) -> None:
    beginning.keep(node, folder, record.plan, record.seat, held=not record.begins_anew)


def _check_fitness(node: Node, snapshot: Manifest, part: CellPart) -> None:
    """Looked at last of all, for files may have changed since this node was asked; the server hears of it at once."""
    cause = requirements.weigh(node, (part,), snapshot.spec)
    if cause:
        node.weighed[snapshot.id] = cause
        node.changed.set()
        raise Refused(
            cause,
            remedy="put the old files back (an upgraded package?), thaw on a node that has what it needs, "
            "or go back to an older snapshot (ergo snapshot restore)",
            lasting=True,
        )


def _others(node: Node) -> Sequence[Place]:
    """All nodes of this home, this one first: the local engine's nodes reach each other's memory directly."""
    names = sorted(path.name for path in (node.place.home / "nodes").iterdir() if path.name != node.place.node)
    return [node.place, *(node.place.other(name) for name in names)]


def _near(node: Node, key: CellKey) -> list[Store]:
    """A pool that is in memory may be on that node's disk a moment later, so both places are asked, in this order."""
    name = f"{key.job}.{key.cell}"
    both = [(place.memory_pools / name, place.disk_pools / name) for place in _others(node)[1:]]
    there = [folder for pair in both if any(one.is_dir() for one in pair) for folder in pair]
    return [_Moving(folder) for folder in there]


class _Moving(Around):
    """The pool of another node. One that is not there (yet, or any more) just does not have what is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Pool(folder).store)
        self._folder = folder

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        try:
            return act()
        except StoreUnreachable:
            if self._folder.is_dir():
                raise
            raise NotFound(call.key) from None


def _image_sources(node: Node, snapshot: Manifest, part: CellPart, came: Sequence[Store]) -> list[Path | Store]:
    """Nodes first, then what `came`. A node that moves them to its disk has them at one of both places at any time."""
    roots = [root for place in _others(node) for root in (place.memory / "images", place.disk_images)]
    near = [root / snapshot.id for root in roots]
    own = {near[0].parent, near[1].parent}
    folders = [folder for folder in near if folder.parent in own or folder.is_dir()]
    return [*folders, *came, *storing.sources(node, snapshot, part)]


def thaw_folder(node: Node, key: CellKey, rank: int) -> Path:
    return node.place.memory / "thaw" / str(key) / f"rank{rank}"


def _inside(part: CellPart, snapshot: Manifest, *, is_fork: bool) -> list[IPv4Network]:
    """Networks to which connections live on. A fork shares its peers' other ends with the job it came from."""
    if snapshot.spec["network"] == "host":
        return []
    return [IPv4Network(f"{part.address}/{32 if is_fork else 16}", strict=False)]


def _fetch_images(
    node: Node, key: CellKey, snapshot: Manifest, part: CellPart, record: LifeRecord, came: Sequence[Store]
) -> None:
    if record.begins_anew:
        return
    sources = _image_sources(node, snapshot, part, came)
    inside = _inside(part, snapshot, is_fork=bool(record.seat.known_as))

    def fetch_one(rank: int) -> None:
        folder = thaw_folder(node, key, rank)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        leave = partial(streaming.is_streamed, folder=folder)
        files.fetch_images(snapshot, rank, folder, sources, leave=leave)
        _check_identity(folder, rank, part)
        images.mend_timers(folder)
        calls.resume_calls(folder)
        closed = images.close_outside(folder, inside)
        if closed:
            several = f"{closed} connections" if closed > 1 else "1 connection"
            LifeFolder(node.place.life(key)).note(f"rank {rank}: {several} to the outside ended by the thaw")

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(fetch_one, (rank.rank for rank in part.ranks)))


def _check_identity(folder: Path, rank: int, part: CellPart) -> None:
    """The images set user ids and capabilities: no more than the manifest has said, whatever they were imported as."""
    told = part.facts.get(identity.IDENTITY)
    if told is None:
        return
    found = identity.of_images(folder)
    if not found <= identity.from_json(told):
        raise DamagedSnapshot(
            f"the images of rank {rank} ask for user ids or capabilities that its manifest does not name"
        )


def restore(node: Node, folder: LifeFolder, body: dict[str, Any]) -> None:
    """Bring every rank back, suspended: not one instruction of the program runs before `run`."""
    snapshot = _manifest(body)
    record = folder.read()
    keeper = node.keeper(folder.key)
    if record is None or keeper is None:
        raise Refused("the cell was taken away while it was being thawed")
    part = snapshot.cell(record.cell)
    plan = _plan_here(node, folder, record, rootfs.plan_from_json(part.facts["root"]))
    for rank in record.seat.ranks:
        missing = rootfs.missing_sources(plan, beginning.places_of(node, folder, rank))
        if missing:
            raise Refused(
                f"this node has no {missing[0]}, which the job needs",
                remedy="thaw it on a node that has it",
                lasting=True,
            )
    (folder.path / "root.json").write_text(json.dumps(rootfs.plan_to_json(plan)))
    _cut_back(folder, snapshot, part, goes_back=body.get("goes_back", False))
    left = streaming.left_out(part, partial(thaw_folder, node, folder.key))

    def restore_all(streamed: Container[Path]) -> None:
        ranks = [_restore_rank(node, folder, record, plan, rank, streamed) for rank in record.seat.ranks]
        try:
            keeper.restore(snapshot.id, ranks, RESTORE_S_MAX)
        except KeeperRefused as refused:
            raise _refusal(ranks, str(refused)) from refused

    if not left or not _from_streams(node, snapshot, part, left, lambda: restore_all(left)):
        restore_all(())
    _give_cores(node, folder, record)


def _from_streams(
    node: Node, snapshot: Manifest, part: CellPart, left: streaming.Left, restore_all: Callable[[], None]
) -> bool:
    """Restore while the page images that were not fetched come out of the store. False: no rank was restored, and every
    image is there now. Raises DamagedSnapshot.
    """
    sources = storing.sources(node, snapshot, part)
    try:
        with streaming.served(left, sources):
            restore_all()
        log.info(
            "snapshot %s: CRIU read %d images as they came out of the store", snapshot.id, sum(map(len, left.values()))
        )
        return True
    except Refused as refused:
        log.info("snapshot %s is not restored from streams: %s", snapshot.id, refused)
    _whole(partial(_twice, node, partial(streaming.fetch, left, sources)))
    return False


def _whole(fetched: Callable[[], None]) -> None:
    try:
        fetched()
    except Damaged as damaged:
        raise DamagedSnapshot(str(damaged)) from damaged


def _give_cores(node: Node, folder: LifeFolder, record: LifeRecord) -> None:
    """CRIU leaves affinity out: before anything runs, every thread gets the cores of its rank's device."""
    for rank, device in zip(record.seat.ranks, record.seat.devices, strict=True):
        pids = node.freezer(node.place.rank_group(folder.key, rank)).pids()
        sharing.settle_on(pids, node.cores.cores, sharing.cores_for(node, record.plan, device))


def _plan_here(node: Node, folder: LifeFolder, record: LifeRecord, saved: rootfs.RootPlan) -> rootfs.RootPlan:
    """The saved root, less what of the old host this one lacks and the job never asked for."""
    spec = record.plan.spec
    asked = [spec.workdir, *(mount.path for mount in spec.mounts)]
    plan = rootfs.without_vanished(saved, asked)
    gone = {mount.target for mount in saved.mounts} - {mount.target for mount in plan.mounts}
    for rank in record.seat.ranks if gone else ():
        images.drop_mounts(thaw_folder(node, folder.key, rank), gone)
    for target in sorted(gone):
        folder.note(f"{target}, which was mounted where the job ran before, is not on {node.place.node}")
    return plan


def _cut_back(folder: LifeFolder, snapshot: Manifest, part: CellPart, *, goes_back: bool) -> None:
    """What the job has written to the host's files since its snapshot is done again. Raises Refused where somebody else
    wrote it: the job is a fork, or stood frozen meanwhile.
    """
    longer = written.longer(written.from_json(part.facts))
    if longer and snapshot.incarnation == 0:  # another job's snapshot: that one may be writing there
        raise Refused(
            f"{longer[0].path} has grown since the snapshot, and belongs to the job that it was taken of",
            remedy="cut it back yourself if that job has ended; a job that is to be forked writes below its directory",
            lasting=True,
        )
    if longer and not goes_back:
        raise Refused(
            f"{longer[0].path} has grown while the job was frozen, so not by the job",
            remedy=f"truncate -s {longer[0].size} {longer[0].path} makes it as it was; "
            "ergo snapshot restore JOB@latest does so by itself",
            lasting=True,
        )
    for file in longer:
        excess = written.cut_back(file)
        folder.note(f"the last {excess} bytes of {file.path} were cut off: the job had written them after its snapshot")


def _refusal(ranks: Sequence[RestoreRank], told: str) -> Refused:
    """CRIU's own reason where its log has one."""
    for rank in ranks:
        log = Path(rank.log).with_name("restore.log")
        if log.exists() and "Error" in log.read_text(errors="replace"):
            failure = criu_log.explain_file(log, 1)
            cause = f"rank {rank.rank} could not be restored: {failure.cause}"
            return Refused(cause, remedy=failure.remedy, lasting=failure.lasts)
    return Refused(told)


def _restore_rank(
    node: Node, folder: LifeFolder, record: LifeRecord, plan: rootfs.RootPlan, rank: int, streamed: Container[Path]
) -> RestoreRank:
    at = thaw_folder(node, folder.key, rank)
    places = beginning.places_of(node, folder, rank)
    _, net = beginning.networks(node, folder.key, record.plan, record.seat)
    pidfile = at / "pid"
    pidfile.unlink(missing_ok=True)
    mounts, net_fd = tuple(rootfs.restore_externals(plan, places)), NET_FD if net.netns else None
    order = Restore(at, pidfile, mounts, net_fd, streamed=at in streamed)
    return RestoreRank(
        rank=rank,
        argv=node.criu.restore_argv(order),
        pidfile=str(pidfile),
        root_plan=rootfs.places_to_keeper(plan, places),
        cgroup=str(beginning.rank_group(node, folder.key, rank)),
        status=str(folder.rank(rank) / "status"),
        log=str(at / "criu.out"),
        cwd=str(at),
        fds={NET_FD: net.netns} if net.netns else {},
        used=record.filesystems.get(rank, ()),
    )


def begun(folder: LifeFolder) -> tuple[int, str] | None:
    """Generation and snapshot of a thaw whose ranks were let go, by this agent process or one before it."""
    record = folder.read()
    if record is None or record.snapshot is None or record.phase == "building":
        return None
    return record.generation, record.snapshot


def begin(folder: LifeFolder, generation: int) -> None:
    """From here on no agent undoes this thaw: bytes its ranks have acknowledged to others would be lost."""
    folder.update(phase="going", generation=generation)


def run(node: Node, folder: LifeFolder, generation: int) -> None:
    """Let the restored ranks go, and their shims meet again under `generation`."""
    record = folder.read()
    keeper = node.keeper(folder.key)
    if record is None or keeper is None or record.snapshot is None:
        raise Refused("the cell was taken away while it was being thawed")
    if record.phase in ("live", "ended"):
        return
    if record.begins_anew:
        saving.begin_again(node, folder, record)
        return
    begin(folder, generation)
    keeper.release(record.snapshot)
    if record.parked:
        ports = {rank: LocalRank(folder.control(rank)) for rank in record.seat.ranks}
        try:
            failed = cut.go(ports, record.parked, generation, cut.GO_S_MAX, node.clock)
        except cut.LeftWaiting as stuck:
            raise Refused(str(stuck)) from stuck
        if failed is not None:
            raise Refused(failed.reason)
    folder.update(phase="live")
    shutil.rmtree(thaw_folder(node, folder.key, 0).parent, ignore_errors=True)
    node.changed.set()
