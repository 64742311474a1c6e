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
from ergosphere.snapshots.errors import Busy, SnapshotError
from ergosphere.snapshots.settings import home_id
from ergosphere.snapshots.store import now_s
from ergosphere.snapshots.sweep import Freed, Needs
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
        swept = sweep.plan(store, now_s(store, sweep.CLOCK), needs=needs)
        freed = [Freed(swept.bytes) if dry_run else sweep.execute(store, swept)]
        vaults, closed = self.service.depot.vaults()
        gone = frozenset(swept.snapshots) if dry_run else frozenset()
        planned = [collect.plan(vault, gone=gone) for vault in vaults]
        freed += [
            Freed(one.bytes) if dry_run else collect.execute(vault, one, home)
            for vault, one in zip(vaults, planned, strict=True)
        ]
        notes = {*swept.notes, *(note for one in planned for note in one.notes)}
        notes |= {*(note for each in freed for note in each.notes), *_left_out(closed)}
        return GcReport(
            dry_run=dry_run,
            snapshots=swept.snapshots if not freed[0].notes else (),
            objects=len(swept.keys) + len(swept.markers) + len(swept.blobs) + sum(len(one.delete) for one in planned),
            bytes=sum(each.bytes for each in freed),
            later_bytes=sum(one.bytes_later for one in planned),
            repacked_bytes=sum(one.bytes_repacked for one in planned),
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


def _left_out(closed: Mapping[str, SnapshotError]) -> list[str]:
    return [f"the vault {root} is left out: {error}" for root, error in closed.items()]


def submitted(job: JobRow) -> str:
    """The digest of the tree that a job came with."""
    return str(job.spec["tree"]["digest"])
