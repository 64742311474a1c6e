"""How urgent a job is now, and when time alone will change that. Pure; O(1) a job.

A lower standing is served first and may take the devices of a higher one. Who waits and who runs are judged
differently: who runs has a turn of `quantum_s` that its own tier respects, so that nobody is frozen and thawed in
circles: every freeze for the same tier was earned by a whole turn.
"""

from __future__ import annotations

from typing import Final

from ergosphere.core.fraction import HOUR_S, NEVER_S, PROMISE, slack, spent_s, window_of
from ergosphere.core.model import Account, JobView, Phase, Tier
from ergosphere.core.policy.rules import Rules

PREMIUM: Final = 0
OWED: Final = 1  # standard, and its promise is in danger this hour
STANDARD: Final = 2
OVERDUE: Final = 3  # basic, and has waited for long; or basic and in its turn
SHORT: Final = 4  # basic, and has not had much yet
LONG: Final = 5
BORROWED: Final = 6  # beyond its project's guarantee: the first to yield
COUNT: Final = 7
FIRST_OF: Final = {Tier.PREMIUM: PREMIUM, Tier.STANDARD: OWED, Tier.BASIC: OVERDUE}  # the most urgent of each tier
CLAIMING: Final = frozenset({PREMIUM, OWED, OVERDUE, BORROWED})  # standings in which nobody is passed over for ever

STEADY: Final = frozenset({PREMIUM, OVERDUE, LONG})  # of who runs: what it stands by does not move with time

LOST_S: Final = 1.0  # an hour counts as lost so long after its slack is spent


def of_waiting(job: JobView, now_s: float, rules: Rules) -> tuple[int, float]:
    """Standing of a job that wants seats, and when it will change (inf: never)."""
    account = job.account
    if job.service:
        return FIRST_OF[job.tier], NEVER_S
    match job.tier:
        case Tier.PREMIUM:
            ripe_s = _waits_since_s(job) + rules.patience_s
            return PREMIUM, ripe_s if now_s < ripe_s else NEVER_S  # see `yields`
        case Tier.STANDARD:
            return _standard_waiting(account, now_s, rules) if account else (STANDARD, NEVER_S)
        case Tier.BASIC:
            return _basic_waiting(job, account, now_s, rules) if account else (LONG, NEVER_S)


def _standard_waiting(account: Account, now_s: float, rules: Rules) -> tuple[int, float]:
    promise = PROMISE[Tier.STANDARD]
    still_s = slack(account, promise, now_s) / account.devices
    if still_s <= -LOST_S:
        return STANDARD, window_of(now_s) + HOUR_S  # this hour is lost; who can still keep theirs goes first
    if not account.counts or still_s > rules.owed_margin_s:
        return STANDARD, spent_s(account, promise, now_s, rules.owed_margin_s) if account.counts else NEVER_S
    return OWED, min(now_s + still_s + LOST_S, window_of(now_s) + HOUR_S)


def _basic_waiting(job: JobView, account: Account, now_s: float, rules: Rules) -> tuple[int, float]:
    overdue_s = _waits_since_s(job) + rules.patience_s
    if now_s >= overdue_s:
        return OVERDUE, NEVER_S
    return SHORT if account.life_delivered < rules.short_device_s else LONG, overdue_s


def _waits_since_s(job: JobView) -> float:
    """Its last event changed its account to standing still: since then it waits."""
    return job.account.at_s if job.account is not None else job.submitted_s


def of_running(job: JobView, now_s: float, rules: Rules) -> tuple[int, float]:
    """Standing of a job that computes: for how urgent a job it would have to leave; and when that will change."""
    if job.tier is Tier.PREMIUM or job.service:
        return FIRST_OF[job.tier], NEVER_S
    if job.account is None or job.running_since_s is None:
        return (STANDARD if job.tier is Tier.STANDARD else LONG), NEVER_S
    turn_s = rules.quantum_s if job.tier is Tier.BASIC else rules.owed_turn_s
    turn_over_s = job.running_since_s + turn_s
    rested_s = _may_pause_again_s(job, now_s, rules)
    guarded = OWED if job.tier is Tier.STANDARD else OVERDUE
    if now_s < max(turn_over_s, rested_s):
        return guarded, max(turn_over_s, rested_s)
    if job.tier is Tier.STANDARD:
        return _standard_running(job.account, now_s, rules)
    return _basic_running(job.account, now_s, rules)


def _standard_running(account: Account, now_s: float, rules: Rules) -> tuple[int, float]:
    """It may be asked to leave for one that is owed only while it can spare a turn of the other's, or all that is left
    of the hour; and not just before the hour ends, or it would begin the next one standing still."""
    end_s = window_of(now_s) + HOUR_S
    guarded_s = end_s - rules.owed_margin_s
    if now_s >= guarded_s:
        return OWED, end_s
    needed_s = rules.owed_turn_s + rules.owed_margin_s
    still_s = slack(account, PROMISE[Tier.STANDARD], now_s) / account.devices
    if still_s <= -LOST_S:
        return STANDARD, guarded_s
    missed = 1.0 - min(1.0, account.rate / account.devices)  # seconds of slack that go with each second as it is
    if still_s >= min(needed_s, end_s - now_s):
        spent = now_s + (still_s - needed_s) / missed if missed > 0 and still_s >= needed_s else guarded_s
        return STANDARD, min(spent, guarded_s)
    spared_s = (end_s - still_s - missed * now_s) / (1.0 - missed) if missed < 1 else end_s
    lost_s = now_s + still_s / missed + LOST_S if missed > 0 else end_s
    return OWED, min(lost_s, spared_s if now_s < spared_s < guarded_s else end_s)


def _basic_running(account: Account, now_s: float, rules: Rules) -> tuple[int, float]:
    had = account.life_delivered + account.rate * max(0.0, now_s - account.at_s)
    if had >= rules.short_device_s:
        return LONG, NEVER_S
    if account.rate <= 0:
        return SHORT, NEVER_S
    return SHORT, now_s + (rules.short_device_s - had) / account.rate


def _may_pause_again_s(job: JobView, now_s: float, rules: Rules) -> float:
    """0 while the policy may still pause it this hour; else when the oldest of its pauses is an hour old."""
    recent = [at_s for at_s in job.pauses if at_s > now_s - HOUR_S]
    if len(recent) < rules.pauses_per_hour:
        return 0.0
    return sorted(recent)[-rules.pauses_per_hour] + HOUR_S


def claims_since_s(job: JobView, urgency: int, rules: Rules) -> float:
    """Since when it could not be passed over any more: who of its own tier begins after that, and was submitted later,
    leaves once that makes its whole room (inf: it has no such claim)."""
    if job.account is None or urgency not in CLAIMING:
        return NEVER_S
    return _waits_since_s(job) + (rules.patience_s if urgency >= OVERDUE else 0.0)


def claims_after_s(rules: Rules) -> tuple[float, ...]:
    """By standing, after how long a wait others have to leave for that. A standard job is given the usual turns of an
    hour first."""
    return tuple(
        NEVER_S
        if urgency not in CLAIMING
        else (rules.patience_s if urgency >= OVERDUE else rules.quantum_s if urgency == OWED else 0.0)
        for urgency in range(COUNT)
    )


def ripens_s(job: JobView, rules: Rules) -> tuple[float, float]:
    """When one that waits will have done so for just so long that others leave for it which did not before."""
    since_s = _waits_since_s(job)
    return since_s + rules.patience_s, since_s + rules.quantum_s


def yields(runs: JobView, waits: JobView, since_s: float, now_s: float, rules: Rules) -> bool:
    """Whether a running job leaves for one of its own tier that has claimed its room since `since_s`.

    Of two jobs only the later one ever yields within `patience_s`, so no two displace each other in turns; and who was
    frozen leaves the other a whole turn, or a claim of `patience_s` would win it a minute.
    """
    if runs.service or runs.running_since_s is None or runs.account is None:
        return False
    if waits.service:
        return True
    had_its_turn = now_s - runs.running_since_s >= rules.quantum_s
    if runs.running_since_s >= since_s and (runs.submitted_s, runs.id) > (waits.submitted_s, waits.id):
        leaves = had_its_turn or not _was_displaced(waits, rules)
    else:
        leaves = had_its_turn and now_s - since_s >= rules.patience_s
    return leaves and _may_pause_again_s(runs, now_s, rules) <= now_s


def _was_displaced(job: JobView, rules: Rules) -> bool:
    """Whether it waits because the policy froze it; the freeze itself takes its time."""
    since_s = _waits_since_s(job)
    return any(abs(at_s - since_s) <= rules.min_run_s + job.freeze_cost_s for at_s in job.pauses)


def goes_whole(job: JobView, urgency: int, devices: int, usable: int) -> bool:
    """Half its devices would not keep its promise, so it waits for all `devices`, unless the fleet never has so many
    (`usable`)."""
    return urgency <= STANDARD and job.account is not None and usable >= devices


def waits(job: JobView) -> bool:
    """It has no seats and nothing but seats keeps it from having some."""
    return job.phase in (Phase.WAITING, Phase.FROZEN) and job.wanted and not (job.paused or job.cancel or job.after)
