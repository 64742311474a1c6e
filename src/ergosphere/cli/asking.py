"""Typed questions to the server. Every path of the public API that the commands use is named here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter

from ergosphere.cli.api import Client, job_path, node_path, snapshot_path
from ergosphere.wire.api import (
    DrainRequest,
    NodeLabels,
    NodeVerbResult,
    ResultList,
    ShutdownRequest,
    ShutdownResult,
    StatusInfo,
    Submitted,
    VerbRequest,
    VerbResult,
)
from ergosphere.wire.jobs import EventInfo, Explanation, JobDetail, JobInfo, JobSpec, NodeInfo, SnapshotInfo
from ergosphere.wire.snapshots import (
    ExportRequest,
    ExportResult,
    ForkRequest,
    ForkResult,
    FsckReport,
    FsckRequest,
    GcReport,
    GcRequest,
    ImportRequest,
    SnapshotDetail,
    SnapshotDiff,
)

EVENTS_PAGE: Final = 1000
STORE_S_MAX: Final = 3600.0  # a check, an export or an import of a large store reads all of it

_JOBS: Final = TypeAdapter(tuple[JobInfo, ...])
_EVENTS: Final = TypeAdapter(tuple[EventInfo, ...])
_SNAPSHOTS: Final = TypeAdapter(tuple[SnapshotInfo, ...])
_NODES: Final = TypeAdapter(tuple[NodeInfo, ...])


def submit(client: Client, spec: JobSpec) -> Submitted:
    """Hand a job in."""
    return Submitted.model_validate(client.post("/v1/jobs", spec.model_dump_json()))


def jobs(client: Client, ended: bool = False, project: str | None = None) -> tuple[JobInfo, ...]:
    """Live jobs, oldest first; with `ended` all of them."""
    return _JOBS.validate_python(client.get("/v1/jobs", {"all": ended, "project": project}))


def job(client: Client, ref: str, until: str | None = None, wait_s: float = 0.0) -> JobDetail:
    """One job; with `until` (ended, running, frozen) when it is that, or after `wait_s`."""
    query = {"until": until, "wait_s": wait_s or None}
    return JobDetail.model_validate(client.get(job_path(ref), query))


def events(client: Client, ref: str | None, after: int = 0, wait_s: float = 0.0) -> tuple[EventInfo, ...]:
    """One page of history after `after`, of a job or of the whole fleet."""
    query = {"after": after, "limit": EVENTS_PAGE, "wait_s": wait_s or None}
    if ref is None:
        return _EVENTS.validate_python(client.get("/v1/events", query))
    return _EVENTS.validate_python(client.get(job_path(ref, "events"), query))


def all_events(client: Client, ref: str | None) -> tuple[EventInfo, ...]:
    """The whole history."""
    found: list[EventInfo] = []
    while page := events(client, ref, found[-1].seq if found else 0):
        found += page
        if len(page) < EVENTS_PAGE:
            break
    return tuple(found)


def explain(client: Client, ref: str) -> Explanation:
    """Why a job is where it is."""
    return Explanation.model_validate(client.get(job_path(ref, "explain")))


def results(client: Client, ref: str) -> ResultList:
    """The working copies as they were collected at the job's end. Refused (REFUSED) before that."""
    return ResultList.model_validate(client.get(job_path(ref, "results")))


def verb(client: Client, ref: str, name: str, request: VerbRequest) -> VerbResult:
    """pause, resume, migrate, resize, snapshot, cancel."""
    data = client.post(job_path(ref, name), request.model_dump_json(), request.wait_s)
    return VerbResult.model_validate(data)


def snapshots(client: Client, job: str | None) -> tuple[SnapshotInfo, ...]:
    """Every snapshot that is kept, of one job or of all."""
    return _SNAPSHOTS.validate_python(client.get("/v1/snapshots", {"job": job}))


def snapshot(client: Client, ref: str) -> SnapshotDetail:
    """One snapshot, `JOB@SNAPSHOT`."""
    return SnapshotDetail.model_validate(client.get(snapshot_path(ref)))


def snapshot_diff(client: Client, a: str, b: str) -> SnapshotDiff:
    """What changed from one to the other."""
    return SnapshotDiff.model_validate(client.get(snapshot_path(a, "diff"), {"to": b}))


def remove_snapshot(client: Client, ref: str) -> None:
    """Let it go."""
    client.request("DELETE", snapshot_path(ref))


def restore(client: Client, ref: str, wait_s: float) -> VerbResult:
    """Roll its job back to it."""
    data = client.post(snapshot_path(ref, "restore"), VerbRequest(wait_s=wait_s).model_dump_json(), wait_s)
    return VerbResult.model_validate(data)


def fork(client: Client, ref: str, wish: ForkRequest) -> ForkResult:
    """Begin a second job from it; waits until it is in the shared store."""
    return ForkResult.model_validate(client.post(snapshot_path(ref, "fork"), wish.model_dump_json(), wish.wait_s))


def export_snapshot(client: Client, ref: str, wish: ExportRequest) -> ExportResult:
    """Write it as one file on the server's machine."""
    data = client.post(snapshot_path(ref, "export"), wish.model_dump_json(), STORE_S_MAX)
    return ExportResult.model_validate(data)


def import_snapshot(client: Client, wish: ImportRequest) -> ForkResult:
    """Begin a job with what `export` wrote."""
    return ForkResult.model_validate(client.post("/v1/store/import", wish.model_dump_json(), STORE_S_MAX))


def gc(client: Client, *, dry_run: bool) -> GcReport:
    """Sweep the store, or say what a sweep would do."""
    data = client.post("/v1/store/gc", GcRequest(dry_run=dry_run).model_dump_json(), STORE_S_MAX)
    return GcReport.model_validate(data)


def fsck(client: Client, *, read: bool, repair: bool) -> FsckReport:
    """Check the store; with `read` every byte of it."""
    data = client.post("/v1/store/fsck", FsckRequest(read=read, repair=repair).model_dump_json(), STORE_S_MAX)
    return FsckReport.model_validate(data)


def nodes(client: Client) -> tuple[NodeInfo, ...]:
    """Every node of the fleet."""
    return _NODES.validate_python(client.get("/v1/nodes"))


def node_verb(client: Client, node: str, name: str, wait_s: float, within_s: float | None = None) -> NodeVerbResult:
    """drain, undrain. `within_s`: it will be gone then."""
    wish = VerbRequest(wait_s=wait_s) if within_s is None else DrainRequest(wait_s=wait_s, within_s=within_s)
    data = client.post(node_path(node, name), wish.model_dump_json(), wait_s)
    return NodeVerbResult.model_validate(data)


def label_node(client: Client, node: str, labels: NodeLabels) -> NodeInfo:
    """Say what a node is."""
    found = client.put(node_path(node, "labels"), labels.model_dump(exclude_none=True))
    return NodeInfo.model_validate(found[0])


def status(client: Client) -> StatusInfo:
    """The service at a glance."""
    return StatusInfo.model_validate(client.get("/v1/status"))


def shutdown(client: Client, kill: bool, wait_s: float) -> ShutdownResult:
    """Pause (or kill) what runs and stop the service."""
    request = ShutdownRequest(kill=kill, wait_s=wait_s)
    return ShutdownResult.model_validate(client.post("/v1/shutdown", request.model_dump_json(), wait_s))


def missing_blobs(client: Client, digests: Sequence[str]) -> set[str]:
    """Which of these the store does not have."""
    from ergosphere.wire.api import DIGESTS_MAX, BlobQuestion, BlobsMissing

    missing: set[str] = set()
    for start in range(0, len(digests), DIGESTS_MAX):
        question = BlobQuestion(digests=tuple(digests[start : start + DIGESTS_MAX]))
        missing |= set(
            BlobsMissing.model_validate(client.post("/v1/blobs/missing", question.model_dump_json())).missing
        )
    return missing
