"""The GPU-fraction accounts in the ledger: opened, changed and closed with a job's life, at the moments of its events.

`core.fraction` reckons; here it is written down. Windows that have closed become rows of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, Final

from sqlalchemy import select

from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import JobRow, WindowRow
from ergosphere.core import fraction
from ergosphere.core.fraction import Window
from ergosphere.core.model import Account, Cause, Phase, Why

_NAMES: Final = tuple(one.name for one in fields(Account))


def open_account(job: JobRow, now_s: float) -> None:
    """From submission on, every second without devices counts; while it waits for other jobs none does."""
    account = fraction.opened(now_s, job.ranks)
    account, _ = fraction.changed(account, now_s, counts=not job.after)
    job.account = dumped(account)


def computes(change: Change, job: JobRow, at_s: float) -> None:
    """Every rank has a device and computes."""
    devices = len({(str(node), int(device)) for node, device in job.seats})
    _write(change, job, at_s, rate=float(devices), cause=Cause.SHRINK)


def stands(change: Change, job: JobRow, at_s: float) -> None:
    """It has stopped computing; why, its phase says."""
    _write(change, job, at_s, rate=0.0, cause=_why(job))


def comes_back(change: Change, job: JobRow) -> None:
    """It has seats again, and is being started or thawed."""
    _write(change, job, change.now_s, cause=Cause.RESTORE)


def entitlement(change: Change, job: JobRow) -> None:
    """Its owner paused or resumed it, or what it waited for has succeeded."""
    counts = not (job.paused or job.held or job.after or not job.wanted)
    account = load(job.account)
    if account is not None and account.counts != counts and account.rate == 0:
        _write(change, job, change.now_s, counts=counts)


def close(change: Change, job: JobRow) -> None:
    """The job has ended."""
    account = load(job.account)
    if account is not None:
        account, windows = fraction.closed(account, max(change.now_s, account.at_s))
        _keep(change, job, account, windows)


def borrows(change: Change, job: JobRow, *, borrowed: bool) -> None:
    """From now on it works beyond its project's guarantee, or within it again: what was until now is a window apart."""
    account = load(job.account)
    if account is not None:
        _write(change, job, change.now_s)  # whole hours that have passed
        account = load(job.account)
        assert account is not None
        part, windows = fraction.closed(account, max(change.now_s, account.at_s))
        _keep(change, job, replace(part, window_s=account.window_s), windows)
    job.borrowed, job.borrowed_turn_s = borrowed, change.now_s


def windows_since(look: Change, since_s: float) -> Iterator[tuple[JobRow, bool, tuple[Window, ...]]]:
    """Of every job, within its guarantee and beyond it apart: its windows from the clock hour of `since_s` on."""
    begin_s = fraction.window_of(since_s)
    stored: dict[tuple[str, bool], list[Window]] = {}
    later = WindowRow.began_s + WindowRow.hours * fraction.HOUR_S > begin_s
    for row in look.session.scalars(select(WindowRow).where(later).order_by(WindowRow.job, WindowRow.seq)):
        stored.setdefault((row.job, row.borrowed), []).append(_window(row))
    for job in look.live_jobs():
        account = load(job.account)
        if account is not None and job.ended_s is None:
            _, rest = fraction.closed(account, max(look.now_s, account.at_s))
            _append(stored.setdefault((job.id, job.borrowed), []), rest)
    jobs = {job.id: job for job in look.jobs({job for job, _ in stored})}
    for (name, borrowed), windows in sorted(stored.items()):
        kept = fraction.since(windows, begin_s)
        if kept:
            yield jobs[name], borrowed, kept


def _append(windows: list[Window], rest: Iterable[Window]) -> None:
    for window in rest:
        if windows and windows[-1].began_s == window.began_s:  # a part of this hour was closed before
            window = fraction.joined(windows.pop(), window)
        windows.append(window)


def load(stored: Any) -> Account | None:
    """An account as the ledger keeps it."""
    if not stored:
        return None
    lost = tuple((Cause(cause), float(missed)) for cause, missed in stored["lost"])
    return Account(**{**stored, "cause": Cause(stored["cause"]), "lost": lost})


def dumped(account: Account) -> dict[str, Any]:
    kept = {name: getattr(account, name) for name in _NAMES}
    return {**kept, "cause": account.cause.value, "lost": [[cause.value, missed] for cause, missed in account.lost]}


def _write(
    change: Change,
    job: JobRow,
    at_s: float,
    *,
    rate: float | None = None,
    counts: bool | None = None,
    cause: Cause | None = None,
) -> None:
    account = load(job.account)
    if account is None:
        return
    if counts is None and rate is not None:
        counts = rate > 0 or not (job.paused or job.held or job.after or not job.wanted)
    at_s = min(max(at_s, account.at_s), max(change.now_s, account.at_s))
    account, windows = fraction.changed(account, at_s, rate=rate, counts=counts, cause=cause)
    _keep(change, job, account, windows)


def _keep(change: Change, job: JobRow, account: Account, windows: Iterable[Window]) -> None:
    job.account = dumped(account)
    for window in windows:
        before = _same_hour(change, job, window)
        if before is not None:
            window = fraction.joined(_window(before), window)
            change.session.delete(before)
        change.session.add(
            WindowRow(
                job=job.id,
                began_s=window.began_s,
                delivered=window.delivered,
                entitled=window.entitled,
                devices=window.devices,
                hours=window.hours,
                lost=[[cause.value, missed] for cause, missed in window.lost],
                borrowed=bool(job.borrowed),
            )
        )


def _same_hour(change: Change, job: JobRow, window: Window) -> WindowRow | None:
    """The part of this very hour that was closed when it began to borrow, or the reverse: at most one of each kind."""
    if not job.borrowed_turn_s or fraction.window_of(job.borrowed_turn_s) != window.began_s or window.hours > 1:
        return None
    query = select(WindowRow).where(WindowRow.job == job.id, WindowRow.began_s == window.began_s)
    return change.session.scalars(query.where(WindowRow.borrowed == job.borrowed)).first()


def _window(row: WindowRow) -> Window:
    lost = tuple((Cause(cause), float(missed)) for cause, missed in row.lost)
    return Window(row.began_s, row.delivered, row.entitled, row.devices, row.hours, lost)


def _why(job: JobRow) -> Cause:
    if job.phase is not Phase.FREEZING:
        return Cause.FAULT
    return Cause.PREEMPT if job.freeze_why is Why.PREEMPT else Cause.MOVE
