"""What the policy would do or says, without doing it: the plan with one more job, and the explanation of one."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

from ergosphere.control.admission import admit
from ergosphere.control.find import find_job
from ergosphere.control.last_words import last_words
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.views import wishes
from ergosphere.control.logs import LogFiles
from ergosphere.control.submit import check_project, check_size, remarks
from ergosphere.core.elastic import fewest
from ergosphere.core.fraction import opened
from ergosphere.core.model import ENDED, Decision, Freeze, JobId, JobView, Phase, Plan, Resize, Rung, Start, View
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.explain import explain
from ergosphere.core.policy.rules import Rules
from ergosphere.wire.api import PlanInfo, PlanPause, PlanShrink
from ergosphere.wire.jobs import Explanation, JobSpec

NEW: JobId = JobId("new")


def foresee(ledger: Ledger, rules: Rules, spec: JobSpec) -> PlanInfo:
    """What would be decided now if this job were submitted. Raises `submit.TooLarge`."""
    with ledger.sight() as sight, ledger.read() as look:
        check_size(look, spec)
        check_project(sight, spec)
        notes = [*remarks(look, spec), *admit(sight, spec).notes]
    view = ledger.picture()
    least = fewest(spec.ranks, spec.min_devices)
    job = JobView(
        NEW,
        spec.name,
        spec.tier,
        spec.project,
        spec.ranks,
        Phase.WAITING,
        view.now_s,
        min_devices=least,
        **wishes(spec.model_dump()),
        account=opened(view.now_s, spec.ranks),  # else the policy would not watch its promise
    )
    return _told(decide(replace(view, jobs=(*view.jobs, job)), rules), view, notes)


def _told(plan: Plan, view: View, notes: list[str]) -> PlanInfo:
    reason = plan.reasons.get(NEW)
    start = next((one for one in plan.decisions if isinstance(one, Start) and one.job == NEW), None)
    jobs = {job.id: job for job in view.jobs}
    frozen = (jobs[one.job] for one in plan.decisions if isinstance(one, Freeze) and one.for_job == NEW)
    return PlanInfo(
        starts=start is not None,
        places=tuple(seat.node for seat in (start.placement if start else plan.rooms.get(NEW, ()))),
        pauses=tuple(
            PlanPause(job=job.id, name=job.name, tier=job.tier, cost_s=job.freeze_cost_s + job.thaw_cost_s)
            for job in frozen
        ),
        shrinks=tuple(_shrink(jobs[one.job], one) for one in plan.decisions if _is_for_new(one)),
        reason=start.reason.text if start else reason.text if reason else "",
        remedy=reason.remedy if reason else "",
        notes=tuple(notes),
    )


def _is_for_new(decision: Decision) -> TypeGuard[Resize]:
    return isinstance(decision, Resize) and decision.for_job == NEW


def _shrink(job: JobView, decision: Resize) -> PlanShrink:
    devices = len(set(decision.placement))
    return PlanShrink(job=job.id, name=job.name, tier=job.tier, devices=devices, instead_of=len(set(job.seats)))


def explanation(ledger: Ledger, logs: LogFiles, rules: Rules, ref: str) -> Explanation:
    """Why a job is where it is. Raises NotFound."""
    with ledger.read() as look:
        job = find_job(look, ref)
        phase, reason, remedy = job.phase, job.reason, job.remedy
        freeze_s, upload_s, measured = job.freeze_cost_s, job.upload_cost_s, job.measured
        rung = f"{job.rung}: {job.rung_because}" if job.rung is not Rung.TRANSPARENT else ""
        job_id, words = JobId(job.id), last_words(logs, job)
    explained = None if phase in ENDED or phase is Phase.ENDING else explain(ledger.picture(), rules, job_id)
    if explained is None:
        return Explanation(job=job_id, phase=phase, reason=reason, remedy=remedy, rung=rung, last_words=words)
    remedies = [explained.reason.remedy, *explained.changes]
    return Explanation(
        job=job_id,
        phase=explained.job.phase,
        reason=explained.reason.text or reason,
        remedy="; ".join(dict.fromkeys(word for word in remedies if word)),
        requirements=tuple(f"{one.devices} of {one.of} devices: {one.text}" for one in explained.requirements),
        rung=rung,
        freeze_cost_s=freeze_s,
        upload_cost_s=upload_s,
        measured=measured,
        ahead=tuple(f"{one.name} ({one.id}, {one.tier}, {one.phase})" for one in explained.ahead),
    )
