"""The sweep of the shared store: now and then, what no live job needs goes. What is needed is the ledger's to say.

The server's clock alone lets nothing go: the store tells ages by its own, and results of jobs that ended long ago must
have been old for a day of this process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from ergosphere.control.ledger.tables import JobRow, SnapshotRow
from ergosphere.control.service import Service
from ergosphere.core.model import ENDED
from ergosphere.snapshots import collect, sweep
from ergosphere.snapshots.errors import Busy, Damaged, SnapshotError, TooNew
from ergosphere.snapshots.settings import home_id
from ergosphere.snapshots.store import Store, now_s
from ergosphere.snapshots.sweep import Freed, Needs, SweepPlan
from ergosphere.snapshots.vault import Vault
from ergosphere.wire.snapshots import GcReport

SWEEP_EVERY_S: Final = 900.0
RESULTS_KEPT_S: Final = 30 * 24 * 3600.0  # after a job's end, for `ergo fetch`; and a day more: see `elders`

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tidy:
    service: Service

    def start(self, ending: threading.Event) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(ending,), name="tidy", daemon=True)
        thread.start()
        return thread

    def sweep(self) -> GcReport:
        """One sweep. Errors: those of the store, Busy."""
        return self.report(dry_run=False)

    def report(self, *, dry_run: bool) -> GcReport:
        """One sweep, or what it would do. Errors: those of the store, Busy (one is under way here)."""
        if dry_run:
            return self._report(dry_run=True)
        if not self.service.sweeping.acquire(blocking=False):
            raise Busy("a sweep of this store is under way", "try again when it has ended")
        try:
            return self._report(dry_run=False)
        finally:
            self.service.sweeping.release()

    def _report(self, *, dry_run: bool) -> GcReport:
        store, home = self.service.store, home_id(self.service.identity.home)
        needs = self._needs()  # first: what is committed after this is young
        swept = _plan(store, needs)
        freed = Freed(swept.bytes) if dry_run else sweep.execute(store, swept)
        vaults, closed = self.service.depot.vaults()
        gone = frozenset(swept.snapshots) if dry_run else frozenset()
        done = [_sweep_vault(vault, gone, needs.snapshots, None if dry_run else home) for vault in vaults]
        notes = {*swept.notes, *freed.notes, *_left_out(closed), *(note for one in done for note in one.notes)}
        return GcReport(
            dry_run=dry_run,
            snapshots=swept.snapshots if not freed.notes else (),
            objects=len(swept.keys) + len(swept.markers) + len(swept.blobs) + sum(one.packs for one in done),
            bytes=freed.bytes + sum(one.bytes for one in done),
            later_bytes=sum(one.bytes_later for one in done),
            repacked_bytes=sum(one.bytes_repacked for one in done),
            notes=tuple(sorted(notes)),
        )

    def _run(self, ending: threading.Event) -> None:
        while not ending.wait(SWEEP_EVERY_S):
            try:
                done = self.sweep()
            except SnapshotError as error:  # the one door: the next sweep finishes what this one began
                log.warning("the sweep of the store stopped: %s", error)
            except Exception:  # a full disk or a bug: the store must be swept again all the same
                log.exception("the sweep of the store failed; the next one follows")
            else:
                log.info("%s", " · ".join((f"the sweep of the store freed {done.bytes} bytes", *done.notes)))

    def _needs(self) -> Needs:
        """As the ledger is now. A damaged snapshot stays until it is removed or too old: it may yet be mended."""
        with self.service.ledger.read() as look:
            jobs = list(look.session.scalars(select(JobRow)))
            rows = list(look.session.execute(select(SnapshotRow.id, SnapshotRow.dropped)))
            old_s = look.now_s - RESULTS_KEPT_S
            old = {job.id for job in jobs if job.ended_s is not None and job.ended_s < old_s}
            forgotten = self.service.elders.confirm(old, self.service.clock.monotonic())
            return Needs(
                ended=frozenset(job.id for job in jobs if job.phase in ENDED),
                forgotten=forgotten,
                trees=frozenset(submitted(job) for job in jobs if job.spec["tree"] and job.id not in forgotten),
                snapshots=frozenset(snapshot for snapshot, dropped in rows if not dropped),
                retired=frozenset(snapshot for snapshot, dropped in rows if dropped),
                jobs=frozenset(job.id for job in jobs),
            )


def _plan(store: Store, needs: Needs) -> SweepPlan:
    """Of snapshots and plain content; none where something that a newer version wrote may refer to any of it.

    Errors: StoreError.
    """
    try:
        return sweep.plan(store, now_s(store, sweep.CLOCK), needs=needs)
    except TooNew as error:
        return SweepPlan((), (), (), 0.0, (f"only chunks of projects are swept: {error}",))


@dataclass(frozen=True, slots=True)
class _VaultSwept:
    """What a sweep did, or would do, in one vault."""

    packs: int = 0
    bytes: int = 0
    bytes_later: int = 0
    bytes_repacked: int = 0
    notes: tuple[str, ...] = ()


def _sweep_vault(vault: Vault, gone: frozenset[str], kept: frozenset[str], home: str | None) -> _VaultSwept:
    """One project's chunks; what stops the sweep there is no reason not to sweep the others. `home` None: a dry run.

    Errors: StoreError.
    """
    try:
        planned = collect.plan(vault, gone=gone)
        freed = Freed(planned.bytes) if home is None else collect.execute(vault, planned, home, kept)
    except (Busy, Damaged, TooNew) as error:
        return _VaultSwept(notes=(f"project {vault.project} is left out: {error}",))
    later = (planned.bytes_later, planned.bytes_repacked)
    return _VaultSwept(len(planned.delete), freed.bytes, *later, (*planned.notes, *freed.notes))


def _left_out(closed: Mapping[str, SnapshotError]) -> list[str]:
    return [f"the vault {root} is left out: {error}" for root, error in closed.items()]


def submitted(job: JobRow) -> str:
    """The digest of the tree that a job came with."""
    return str(job.spec["tree"]["digest"])
