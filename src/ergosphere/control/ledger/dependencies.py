"""Jobs that wait for the success of others (`after`): released when it comes, cancelled when it cannot come."""

from __future__ import annotations

from ergosphere.control.ledger import accounts, lives
from ergosphere.control.ledger.change import SERVER, Change
from ergosphere.control.ledger.tables import JobRow
from ergosphere.core.model import Phase


def settle(change: Change, jobs: list[JobRow]) -> None:
    """Look at every job that waits for others. A chain of them is settled one link a turn, or at once in order."""
    for job in jobs:
        if job.after and job.phase is Phase.WAITING:
            _settle(change, job)


def _settle(change: Change, job: JobRow) -> None:
    rest: list[str] = []
    for name in job.after:
        before = change.session.get(JobRow, name)
        if before is None or before.phase in (Phase.FAILED, Phase.CANCELLED):
            how = f"{before.name} ({name}) has {before.phase}" if before else f"{name} is not known any more"
            lives.stop(change, job, SERVER, f"{how}, and this job was to run after its success")
            return
        if before.phase is not Phase.SUCCEEDED:
            rest.append(name)
    if rest != job.after:
        job.after = rest
        accounts.entitlement(change, job)
        if not rest:
            change.note(job, SERVER, "released", "every job that it waited for has succeeded")
