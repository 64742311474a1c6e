"""Forgetting: which snapshots go, and which blobs nothing refers to any more. Plan first, execute then.

Safe beside writers: a blob goes only when it is older than the grace period at the moment of its deletion,
and `has` and `put` renew the age of what a writer relies on. Ages are told by the store's own clock. While anything
that may refer to a blob cannot be read, nothing is deleted at all. A snapshot is forgotten by writing so, which takes
room: what nothing names goes before, so that a store that is full is swept all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ergosphere.snapshots.blobs import BLOBS
from ergosphere.snapshots.errors import Damaged, NotFound, StoreFull
from ergosphere.snapshots.gather import REMOTE
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.records import RECORDS, Swept, sweep_record, verdict
from ergosphere.snapshots.results import RESULTS, parse_result
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.tree import load_tree

CLOCK: Final = "clock"  # written by a sweep to be told the store's time
COPIED: Final = 0  # incarnation of a snapshot that a fork or an import began a job with; lives count from 1
RECORD_AGE_MAX_S: Final = 30 * 24 * 3600.0  # no keeper asks for a verdict after a month


@dataclass(frozen=True, slots=True)
class Retention:
    """Keep the newest `keep_last` snapshots of a job that reached the store; spare what is younger than
    `grace_s`.
    """

    keep_last: int = 2
    grace_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What must or need not stay, as the ledger sees it."""

    ended: frozenset[str] = frozenset()  # jobs whose snapshots may all go
    forgotten: frozenset[str] = frozenset()  # jobs whose results may go, too
    trees: frozenset[str] = frozenset()  # submissions of jobs that may still start
    snapshots: frozenset[str] = frozenset()  # to keep whatever retention says
    retired: frozenset[str] = frozenset()  # to forget whatever retention says
    jobs: frozenset[str] | None = None  # all there are; None: nobody says


DEFAULT_RETENTION: Final = Retention()
NO_NEEDS: Final = Needs()
FULL: Final = "the store is full: snapshots are forgotten with the next sweeps, once there is room to write that down"
NOTHING: Final = "nothing is swept before that is mended (ergo snapshot fsck --repair) or removed (ergo snapshot rm)"


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What would be done. `written_before_s` is checked again for each deletion."""

    snapshots: tuple[str, ...]
    keys: tuple[str, ...]  # results and old records
    blobs: tuple[tuple[str, int], ...]  # key, size
    written_before_s: float
    notes: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()  # keys: that cells of `snapshots` are remote
    named: frozenset[str] = frozenset()  # of `blobs`, keys of those that `snapshots` name: they go after these

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.blobs)


@dataclass(frozen=True, slots=True)
class Freed:
    """What a sweep did. `notes`: what it could not do, in words."""

    bytes: int
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    """What lies under `freezes/`."""

    manifests: list[Manifest] = field(default_factory=list)
    old: list[str] = field(default_factory=list)  # keys
    swept: set[str] = field(default_factory=set)  # snapshots forgotten before
    damaged: dict[str, Damaged] = field(default_factory=dict)  # by snapshot
    written_s: dict[str, float] = field(default_factory=dict)  # by snapshot


def plan(store: Store, now_s: float, rules: Retention = DEFAULT_RETENTION, needs: Needs = NO_NEEDS) -> SweepPlan:
    """Decide what goes. `now_s`: by the store's own clock (`store.now_s`).

    Errors: StoreError; TooNew when something that refers to blobs cannot be understood.
    """
    notes: list[str] = []
    before_s = now_s - rules.grace_s
    found = _records(store, now_s, needs)
    notes += [str(found.damaged[one]) for one in found.damaged if _may_matter(one, found, before_s, needs)]
    remote = [(stored.key.split("/")[1], stored) for stored in store.list(REMOTE)]
    gone = _retired(found, {freeze_id for freeze_id, _ in remote}, (rules.keep_last, before_s), needs)
    gone |= _orphans(found, before_s, needs) | (found.damaged.keys() & needs.retired)
    kept = [manifest for manifest in found.manifests if manifest.id not in gone]
    leaving = [manifest for manifest in found.manifests if manifest.id in gone]
    old_results, trees = _results(store, needs, notes)
    trees |= needs.trees | {tree for manifest in kept for tree in _trees(manifest)}
    marked = trees | {blob for manifest in kept for blob in _blobs(manifest)} | _files(store, trees, notes)
    if notes:  # whatever it is, it may refer to anything
        return SweepPlan((), (), (), before_s, (*notes, NOTHING))
    over = gone | found.swept
    markers = tuple(
        stored.key
        for freeze_id, stored in remote
        if freeze_id in over or (freeze_id not in found.written_s and stored.written_s < before_s)
    )
    blobs = tuple(
        (stored.key, stored.size)
        for stored in store.list(BLOBS)
        if stored.written_s < before_s and stored.key.rpartition("/")[2] not in marked
    )
    named = _named(store, leaving) if blobs else frozenset()
    still = frozenset(key for key, _ in blobs if named is None or key.rpartition("/")[2] in named)
    return SweepPlan(tuple(sorted(gone)), (*found.old, *old_results), blobs, before_s, (), markers, still)


def execute(store: Store, swept: SweepPlan) -> Freed:
    """Do what the plan says. Interrupted anywhere, the next sweep finishes. Errors: StoreError."""
    for key in swept.keys:
        store.delete(key)
    freed = _delete(store, swept, [blob for blob in swept.blobs if blob[0] not in swept.named])
    try:
        for snapshot in swept.snapshots:
            sweep_record(store, snapshot)
    except StoreFull:
        return Freed(freed, (FULL,))
    for key in swept.markers:
        store.delete(key)
    return Freed(freed + _delete(store, swept, [blob for blob in swept.blobs if blob[0] in swept.named]))


def _delete(store: Store, swept: SweepPlan, blobs: list[tuple[str, int]]) -> int:
    return sum(size for key, size in blobs if store.delete(key, written_before_s=swept.written_before_s))


def _named(store: Store, manifests: list[Manifest]) -> frozenset[str] | None:
    """Digests that these snapshots name. None: any; one of their lists of files cannot be read."""
    unread: list[str] = []
    trees = {tree for manifest in manifests for tree in _trees(manifest)}
    found = trees | _files(store, trees, unread) | {blob for manifest in manifests for blob in _blobs(manifest)}
    return None if unread else frozenset(found)


def _records(store: Store, now_s: float, needs: Needs) -> _Found:
    """Committed manifests, records that cannot be read, and records too old for anyone to ask for."""
    found = _Found()
    for stored in store.list(RECORDS):
        freeze_id = stored.key.removeprefix(RECORDS)
        found.written_s[freeze_id] = stored.written_s
        is_old = stored.written_s < now_s - RECORD_AGE_MAX_S and freeze_id not in needs.snapshots
        try:
            record = verdict(store, freeze_id)
        except Damaged as error:
            if is_old and freeze_id not in needs.retired:
                found.old.append(stored.key)
            else:
                found.damaged[freeze_id] = error
            continue
        if isinstance(record, Manifest):
            found.manifests.append(record)
        elif record is not None and is_old:
            found.old.append(stored.key)
        if isinstance(record, Swept):
            found.swept.add(freeze_id)
    return found


def _may_matter(freeze_id: str, found: _Found, before_s: float, needs: Needs) -> bool:
    """Whether a record that cannot be read may be one that somebody wants; the ledger knows all but young ones."""
    if needs.jobs is None or freeze_id in needs.snapshots:
        return True
    return freeze_id not in needs.retired and found.written_s[freeze_id] >= before_s


def _retired(found: _Found, remote: set[str], limits: tuple[int, float], needs: Needs) -> set[str]:
    """Snapshots to forget: what the ledger has dropped, of ended jobs all, and of each job those that it does not know
    and that are older than its newest remote ones (`limits`: how many of these, and before when they were written).
    """
    keep_last, before_s = limits
    gone: set[str] = set()
    kept: dict[str, int] = {}
    for manifest in sorted(found.manifests, key=lambda m: (m.incarnation, m.taken_s), reverse=True):
        enough = kept.get(manifest.job, 0) >= keep_last and found.written_s[manifest.id] < before_s
        over = enough or manifest.job in needs.ended or manifest.id in needs.retired
        if over and manifest.id not in needs.snapshots:
            gone.add(manifest.id)
        elif manifest.id in remote:
            kept[manifest.job] = kept.get(manifest.job, 0) + 1
    return gone


def _orphans(found: _Found, before_s: float, needs: Needs) -> set[str]:
    """What a fork or an import left that died before its job was written down."""
    if needs.jobs is None:
        return set()
    return {
        manifest.id
        for manifest in found.manifests
        if manifest.incarnation == COPIED
        and manifest.job not in needs.jobs
        and manifest.id not in needs.snapshots
        and found.written_s[manifest.id] < before_s
    }


def _trees(manifest: Manifest) -> set[str]:
    return {tree.digest for cell in manifest.cells for tree in (cell.work, cell.cache) if tree is not None}


def _blobs(manifest: Manifest) -> set[str]:
    found = {file.digest for cell in manifest.cells for rank in cell.ranks for file in rank.files}
    found |= {piece.digest for cell in manifest.cells for log in cell.logs for piece in log.pieces}
    return found | ({manifest.cpuinfo} if manifest.cpuinfo else set())


def _files(store: Store, trees: set[str], notes: list[str]) -> set[str]:
    """Digests of all files in these trees.

    A tree still on its way here has none: its files are young, or another's.
    """
    found: set[str] = set()
    for digest in trees:
        try:
            found |= load_tree([store], digest).digests()
        except Damaged as error:
            if error.how != "is missing":
                notes.append(str(error))
    return found


def _results(store: Store, needs: Needs, notes: list[str]) -> tuple[list[str], set[str]]:
    """Keys of results nobody will ask for, and the trees of all others."""
    gone, trees = [], set()
    for stored in store.list(RESULTS):
        if stored.key.removeprefix(RESULTS).partition(".")[0] in needs.forgotten:
            gone.append(stored.key)
            continue
        try:
            trees.add(parse_result(store.get(stored.key), stored.key).work.digest)
        except NotFound:
            continue
        except Damaged as error:
            notes.append(str(error))
    return gone, trees
