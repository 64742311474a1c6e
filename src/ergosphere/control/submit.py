"""Taking a job in: what is refused at once, what is noted, what is kept."""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select

from ergosphere.control import shown
from ergosphere.control.admission import admit, never_fits
from ergosphere.control.find import find_job
from ergosphere.control.ledger import accounts
from ergosphere.control.ledger.change import OWNER, Change, chunks
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.sight import Sight
from ergosphere.control.ledger.tables import EnvironmentRow, JobRow, NodeRow
from ergosphere.control.verbs import Conflict
from ergosphere.core import elastic
from ergosphere.core.model import ENDED, Phase
from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.errors import Damaged, TooNew
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.tree import load_tree
from ergosphere.wire.api import Submitted
from ergosphere.wire.jobs import JobSpec, TreeRef

NAME_MAX: Final = 63  # characters of a name


class TooLarge(Exception):
    """More ranks than the fleet could ever hold: cause and remedy."""

    def __init__(self, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.remedy = remedy


def submit(ledger: Ledger, store: Store, spec: JobSpec) -> Submitted:
    """Keep a job. Raises TooLarge, or Conflict when the files it names were not uploaded."""
    if spec.tree is not None:
        _check_tree(store, spec.tree)
    with ledger.change() as change, ledger.sight() as sight:
        check_size(change, spec)
        check_project(sight, spec)
        notes = remarks(change, spec)
        admitted = admit(sight, spec)
        after = [_dependency(change, ref) for ref in spec.after]
        jobs = _take_in(change, spec, after, borrowed=admitted.borrowed)
        return Submitted(
            job=shown.job_info(change, jobs[0]),
            notes=(*notes, *admitted.notes),
            others=tuple(job.id for job in jobs[1:]),
            promised=admitted.promised,
        )


def _each(spec: JobSpec) -> list[JobSpec]:
    """One spec for each index of an array or each replica of a service; else the spec itself."""
    indexes = spec.array or (tuple(range(spec.replicas[1])) if spec.replicas else ())
    if not indexes:
        return [spec]
    return [
        spec.model_copy(
            update={
                "name": f"{spec.name[: NAME_MAX - len(str(index)) - 1]}-{index}",
                "rank_env": {**spec.rank_env, "ERGO_INDEX": str(index)},
            }
        )
        for index in indexes
    ]


def _take_in(change: Change, spec: JobSpec, after: list[str], *, borrowed: bool) -> list[JobRow]:
    """Its jobs, written at once however many they are."""
    specs = _each(spec)
    names = _fresh_ids(change, len(specs))
    jobs = [_job(change, name, one) for name, one in zip(names, specs, strict=True)]
    for place, job in enumerate(jobs):
        job.after, job.deadline_s, job.borrowed = list(after), spec.deadline_s, borrowed
        _as_replica(job, spec, place)
        accounts.open_account(job, change.now_s)
    change.session.add_all(jobs)
    change.session.flush()  # before what refers to them
    change.session.add_all(EnvironmentRow(job=job.id, env=spec.env) for job in jobs)
    ranks = "" if spec.ranks == 1 else f", {spec.ranks} ranks"
    for job in jobs:
        change.note(job, OWNER, "submitted", f"{spec.tier} job {job.name} in project {spec.project}{ranks}")
    change.session.flush()
    return jobs


def _as_replica(job: JobRow, spec: JobSpec, place: int) -> None:
    """Of a service the fewest are wanted from the beginning; the load asks for more (`ergo scale`)."""
    job.service, job.wanted = "", True
    if spec.replicas is not None:
        job.service, job.wanted = spec.name, place < max(1, spec.replicas[0])


def _dependency(change: Change, ref: str) -> str:
    """The id of a job that must succeed first. Raises Conflict when it cannot any more."""
    job = find_job(change, ref)
    if job.phase in (Phase.FAILED, Phase.CANCELLED):
        raise Conflict(f"{ref} has {job.phase}, so nothing can run after its success", "leave out --after, or run it")
    return job.id


def check_size(look: Change, spec: JobSpec) -> None:
    """Raises TooLarge, saying the most that would fit. Ranks that may share need fewer devices than they are."""
    least = elastic.fewest(spec.ranks, spec.min_devices)
    valid = elastic.sizes(spec.ranks, least)
    if not valid:
        raise TooLarge(f"--min-devices {least} is more than its {spec.ranks} ranks could use")
    most = look.session.scalar(select(func.sum(NodeRow.devices))) or 0
    if valid[-1] > most:
        devices = "device" if most == 1 else "devices"
        needed = f"{valid[-1]} devices" if valid[-1] == spec.ranks else f"at least {valid[-1]} devices"
        cause = f"{spec.ranks} ranks need {needed}, and the whole fleet has {most} {devices}"
        raise TooLarge(cause, _what_fits(spec, most))


def _what_fits(spec: JobSpec, devices: int) -> str:
    """The most ranks that so many devices can hold, as few of them as the owner lets the ranks share."""
    if spec.min_devices is not None and spec.min_devices > devices:
        return f"lower --min-devices: at most {devices}" if devices else ""
    highest = min(spec.ranks, elastic.SHARE_DEFAULT * (devices + 1)) if spec.min_devices is None else spec.ranks
    fitting = (ranks for ranks in range(highest, 0, -1) if _fits(ranks, spec.min_devices, devices))
    ranks = next(fitting, 0)
    return f"at most {ranks} rank{'s fit' if ranks != 1 else ' fits'}" if ranks else ""


def _fits(ranks: int, least: int | None, devices: int) -> bool:
    return any(ranks % count == 0 for count in range(elastic.fewest(ranks, least), devices + 1))


def remarks(look: Change, spec: JobSpec) -> list[str]:
    """What its owner should know."""
    notes = []
    same = look.session.scalar(
        select(func.count()).select_from(JobRow).where(JobRow.name == spec.name, JobRow.phase.not_in(ENDED))
    )
    if same:
        others = "another live job is" if same == 1 else f"{same} other live jobs are"
        notes.append(f"{others} called {spec.name}: as long as that is so, ids tell them apart and the name does not")
    if look.session.get(JobRow, spec.name) is not None:
        notes.append(f"{spec.name} is the id of another job, and stays so: use this one's id")
    largest = look.session.scalar(select(func.max(NodeRow.devices))) or 0
    if spec.ranks > max(1, largest):
        notes.append(
            f"no node has more than {largest} devices: groups of ranks have their own copies of the working directory"
        )
    cores = look.session.scalar(select(func.max(NodeRow.cores))) or 0
    if spec.threads and spec.threads > cores > 0:
        has = "1 core" if cores == 1 else f"{cores} cores"
        notes.append(
            f"{spec.threads} threads for each rank, and no node has more than {has}: they will wait for each other"
        )
    return notes


def fresh_job_id(change: Change) -> str:
    """One that no job has."""
    return _fresh_ids(change, 1)[0]


def _fresh_ids(change: Change, count: int) -> list[str]:
    """As many as that which no job has, and which are not the same either."""
    fresh: dict[str, None] = {}
    while len(fresh) < count:
        made = {f"j{change.new_id()[:7]}" for _ in range(count - len(fresh))}
        for some in chunks(made - fresh.keys()):
            taken = set(change.session.scalars(select(JobRow.id).where(JobRow.id.in_(some))))
            fresh |= dict.fromkeys(name for name in some if name not in taken)
    return list(fresh)


def check_project(sight: Sight, spec: JobSpec) -> None:
    """Raises TooLarge when its project may never have the devices it needs."""
    against = never_fits(sight, spec)
    if against is not None:
        raise TooLarge(*against)


def _job(change: Change, job_id: str, spec: JobSpec) -> JobRow:
    bare = spec.model_copy(update={"env": {}})
    return JobRow(
        id=job_id,
        name=spec.name,
        project=spec.project,
        tier=spec.tier,
        ranks=spec.ranks,
        spec=bare.model_dump(mode="json"),
        submitted_s=change.now_s,
        min_devices=elastic.fewest(spec.ranks, spec.min_devices),
    )


def _check_tree(store: Store, tree: TreeRef) -> None:
    """Every file of the submission must be here before the job is."""
    try:
        needed = load_tree([store], tree.digest).digests()
        missing = [digest for digest in needed if not store.has(blob_key(digest))]
    except (Damaged, TooNew) as error:
        raise Conflict(f"the working directory's list {tree.digest[:12]} was not uploaded: {error}") from error
    if missing:
        raise Conflict(f"{len(missing)} files of the working directory were not uploaded", "submit again")
