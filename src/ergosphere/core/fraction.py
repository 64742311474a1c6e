"""The GPU fraction: what a job was delivered of what it is entitled to. Pure; O(1) per event, windows closed lazily.

Entitled is d × the time present (from submission and its grace to the end, without owner's pauses and dependencies);
delivered is ∫ min(devices computing, d). The fraction is their quotient, in clock-aligned hours (partial ones
prorated, parts under five minutes merged with a neighbour) and over the job's life. Surplus never pays a deficit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ergosphere.core import copying
from ergosphere.core.model import Account, Cause, Tier

HOUR_S: Final = 3600.0  # a window
PART_S_MIN: Final = 300.0  # a window's part that is shorter counts with its neighbour
PROMISE: Final[Mapping[Tier, float]] = {Tier.PREMIUM: 0.95, Tier.STANDARD: 0.70, Tier.BASIC: 0.0}
NEVER_S: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window, or `hours` equal ones in a row, in device-seconds (all of them together)."""

    began_s: float
    delivered: float
    entitled: float
    devices: int = 1  # of the job
    hours: int = 1
    lost: tuple[tuple[Cause, float], ...] = ()

    @property
    def fraction(self) -> float:
        """1 where nothing was owed."""
        return self.delivered / self.entitled if self.entitled > 0 else 1.0


def opened(now_s: float, devices: int, grace_s: float = 0.0) -> Account:
    """The account of a job submitted at `now_s`. Entitlement begins after `grace_s`."""
    start_s = now_s + grace_s
    return Account(devices=devices, opened_s=start_s, at_s=start_s, window_s=window_of(start_s))


def window_of(now_s: float) -> float:
    """When the clock-aligned hour of `now_s` began."""
    return now_s // HOUR_S * HOUR_S


def advanced(account: Account, now_s: float) -> tuple[Account, tuple[Window, ...]]:
    """The account at `now_s` and the windows that closed on the way; a run of equal whole hours comes as one."""
    if now_s <= account.at_s:
        return account, ()
    first_end_s = account.window_s + HOUR_S
    if now_s < first_end_s:
        return _run(account, now_s - account.at_s, now_s), ()
    windows: list[Window] = []
    account, closed_now = _close(_run(account, first_end_s - account.at_s, first_end_s))
    windows.extend(closed_now)
    whole = int((now_s - first_end_s) // HOUR_S)
    if whole:
        account, closed_now = _hours(account, whole)
        windows.extend(closed_now)
    return _run(account, now_s - account.at_s, now_s), tuple(windows)


def changed(
    account: Account, now_s: float, *, rate: float | None = None, counts: bool | None = None, cause: Cause | None = None
) -> tuple[Account, tuple[Window, ...]]:
    """What was true until now is written down; from now on `rate` devices compute; more do not because of `cause`."""
    account, windows = advanced(account, now_s)
    return (
        copying.changed(
            account,
            rate=account.rate if rate is None else rate,
            counts=account.counts if counts is None else counts,
            cause=cause or account.cause,
        ),
        windows,
    )


def closed(account: Account, now_s: float) -> tuple[Account, tuple[Window, ...]]:
    """The end of the job: its last windows. `merged` joins parts too short to stand alone."""
    account, windows = advanced(account, now_s)
    account, last = _close(account)
    return account, (*windows, *last)


def merged(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """A job's windows in order, its first and last joined with their neighbour where they are under five minutes."""
    kept = list(windows)
    if len(kept) > 1 and _short(kept[-1]):
        kept[-2:] = _joined(kept[-2], kept[-1])
    if len(kept) > 1 and _short(kept[0]):
        kept[:2] = _joined(kept[1], kept[0])
    return tuple(kept)


def since(windows: Iterable[Window], begin_s: float) -> tuple[Window, ...]:
    """Of these windows whatever lies at `begin_s`, a full hour, or later; of a run of equal hours its later part."""
    kept = []
    for window in windows:
        hours = min(window.hours, round((window.began_s + window.hours * HOUR_S - begin_s) / HOUR_S))
        if hours == window.hours:
            kept.append(window)
        elif hours > 0:
            began_s = window.began_s + (window.hours - hours) * HOUR_S
            kept.append(replace(_share(window, hours), began_s=began_s))
    return tuple(kept)


def joined(whole: Window, part: Window) -> Window:
    """Two parts of one hour as one."""
    return _joined(whole, part)[0]


def slack(account: Account, promise: float, now_s: float) -> float:
    """Device-seconds that may still be missed in the present window with the promise kept; negative once it is broken.

    slack(t) = delivered − promise × entitled so far + (1 − promise) × what the rest of the window will entitle to.
    """
    window_s, since_s, delivered, entitled = account.window_s, account.at_s, account.delivered, account.entitled
    if now_s >= window_s + HOUR_S:  # as `advanced` says, without a new account
        window_s = since_s = window_of(now_s)
        delivered = entitled = 0.0
    if account.counts and now_s > since_s:
        span_s = now_s - since_s
        delivered += min(account.rate, account.devices) * span_s
        entitled += account.devices * span_s
    rest = account.devices * max(0.0, window_s + HOUR_S - max(now_s, since_s))
    return delivered - promise * entitled + (1.0 - promise) * rest


def spent_s(account: Account, promise: float, now_s: float, margin_s: float = 0.0) -> float:
    """When its slack will be down to `margin_s` seconds of standing still, if it stands still from now on.

    A deficit of an hour that is over cannot be paid any more, so a new hour begins with the whole slack: after the
    present hour that is the earliest moment in the next.
    """
    left_s = slack(account, promise, now_s) / account.devices - margin_s
    end_s = max(account.window_s, window_of(now_s)) + HOUR_S
    begins_s = max(now_s, account.at_s)  # nothing is owed, and so nothing spent, before its grace is over
    if begins_s + max(0.0, left_s) < end_s:
        return begins_s + max(0.0, left_s)
    return end_s + max(0.0, (1.0 - promise) * HOUR_S - margin_s)


def _run(account: Account, span_s: float, until_s: float) -> Account:
    """`span_s` seconds pass as things stand, within one window."""
    if not account.counts:
        return copying.changed(account, at_s=until_s)
    owed = account.devices * span_s
    given = min(account.rate, account.devices) * span_s
    return copying.changed(
        account,
        at_s=until_s,
        delivered=account.delivered + given,
        entitled=account.entitled + owed,
        life_delivered=account.life_delivered + given,
        life_entitled=account.life_entitled + owed,
        lost=_and_lost(account.lost, account.cause, owed - given),
    )


def _and_lost(lost: tuple[tuple[Cause, float], ...], cause: Cause, missed: float) -> tuple[tuple[Cause, float], ...]:
    if missed <= 0:
        return lost
    so_far = dict(lost)
    so_far[cause] = so_far.get(cause, 0.0) + missed
    return tuple(so_far.items())


def _close(account: Account, hours: int = 1) -> tuple[Account, tuple[Window, ...]]:
    window = Window(account.window_s, account.delivered, account.entitled, account.devices, hours, account.lost)
    fresh = copying.changed(account, window_s=account.window_s + hours * HOUR_S, delivered=0.0, entitled=0.0, lost=())
    return fresh, (window,) if account.entitled > 0 else ()


def _hours(account: Account, hours: int) -> tuple[Account, tuple[Window, ...]]:
    """Whole equal hours, however many, in one step."""
    span_s = hours * HOUR_S
    return _close(_run(account, span_s, account.at_s + span_s), hours)


def _short(window: Window) -> bool:
    return window.hours == 1 and window.entitled < PART_S_MIN * window.devices


def _joined(whole: Window, part: Window) -> list[Window]:
    """`part` counted with `whole`; of a run of hours with the one beside it."""
    if whole.hours > 1:
        beside, rest = _share(whole, 1), _share(whole, whole.hours - 1)
        one = _joined(beside, part)[0]
        return [rest, one] if part.began_s > whole.began_s else [one, rest]
    lost = dict(whole.lost)
    for cause, missed in part.lost:
        lost[cause] = lost.get(cause, 0.0) + missed
    return [
        replace(
            whole,
            began_s=min(whole.began_s, part.began_s),
            delivered=whole.delivered + part.delivered,
            entitled=whole.entitled + part.entitled,
            lost=tuple(lost.items()),
        )
    ]


def _share(run: Window, hours: int) -> Window:
    """`hours` of a run of equal hours."""
    part = hours / run.hours
    lost = tuple((cause, missed * part) for cause, missed in run.lost)
    return replace(run, delivered=run.delivered * part, entitled=run.entitled * part, hours=hours, lost=lost)
