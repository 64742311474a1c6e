"""Bodies of the public API about snapshots: what is in one, what differs, forks, checks of the store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ergosphere.wire.api import VerbRequest, VerbResult
from ergosphere.wire.jobs import NAME_PATTERN, JobInfo, SnapshotInfo, Wire

SNAPSHOT_NAME_PATTERN = r"^(|[A-Za-z][A-Za-z0-9._-]{0,62})$"  # no digit first: numbers and ids are not names
RESERVED_NAMES = frozenset({"latest"})  # JOB@latest is the newest, whatever it is called


class SnapshotRequest(VerbRequest):
    """Take a snapshot; with `name` it is kept until it is removed. A frozen job's newest one is named instead."""

    name: str = Field(default="", pattern=SNAPSHOT_NAME_PATTERN)

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"no snapshot can be called {name!r}: JOB@{name} means the newest one")
        return name


class ForkRequest(VerbRequest):
    """Begin a second job from the same instant. `env`: told to its processes, which run already (docs: fork).

    `share`: what the job has in common with others (mounts that may be written) stays so for the fork.
    """

    name: str = Field(pattern=NAME_PATTERN)
    env: dict[str, str] = {}
    share: bool = False


class ForkResult(Wire):
    """The second job and what its owner should know about it."""

    job: JobInfo
    snapshot: str  # its copy of the snapshot
    notes: tuple[str, ...] = ()


class RestoreResult(VerbResult):
    """State after a job was rolled back to one of its snapshots."""


class KindBytes(Wire):
    """What of a snapshot is of one kind. `filled`: bytes that are not zeros, known once it is remote."""

    kind: str
    count: int
    bytes: int
    filled: int | None = None


class NodeFit(Wire):
    """`fits` None: that node has not said yet."""

    node: str
    fits: bool | None
    cause: str = ""


class Needs(Wire):
    """What thawing needs of a node."""

    criu: str
    kernel: str
    cpu: str = ""  # name of the model it ran on, where known
    files: int = 0  # files outside the job that must be the very same
    devices: str = "cpu"


class SnapshotDetail(SnapshotInfo):
    job_name: str = ""
    kinds: tuple[KindBytes, ...] = ()
    chunks: int = 0
    stored: int | None = None  # bytes its chunks take in the store
    alone: int | None = None  # of those, what no other snapshot needs
    needs: Needs | None = None
    fits: tuple[NodeFit, ...] = ()
    log_lengths: dict[str, int] = {}
    note: str = ""  # why something of this is not known


class FileChange(Wire):
    path: str  # as `wire.paths` writes it
    change: Literal["added", "removed", "changed"]


class SnapshotDiff(Wire):
    """From `a` to `b`: files of the working copies, log bytes, and how much of b's memory a has already."""

    a: str
    b: str
    files: tuple[FileChange, ...] = ()
    logs: dict[str, int] = {}  # bytes more (or fewer) than before
    memory_bytes: int = 0
    memory_shared: int = 0


class GcRequest(Wire):
    dry_run: bool = False


class GcReport(Wire):
    """What went, or with `dry_run` would go."""

    dry_run: bool
    snapshots: tuple[str, ...] = ()
    objects: int = 0
    bytes: int = 0
    later_bytes: int = 0  # nothing needs them any more; a sweep after the grace period removes them
    repacked_bytes: int = 0  # of packs that are needed in part, which are copied: these go a grace period after
    notes: tuple[str, ...] = ()


class Finding(Wire):
    """One thing that is wrong in the store."""

    kind: str  # snapshot, damaged, mended, orphaned
    what: str
    snapshots: tuple[str, ...] = ()
    remedy: str = ""


class FsckRequest(Wire):
    """`read`: every byte is read and verified, not only looked for. `repair`: what can be mended is."""

    read: bool = True
    repair: bool = False


class FsckReport(Wire):
    findings: tuple[Finding, ...] = ()
    snapshots: int = 0
    packs: int = 0
    chunks: int = 0
    ok: bool = True


class ExportRequest(Wire):
    """Write a snapshot as one file on the server's machine, encrypted under `key_file`; "": in the clear."""

    path: str
    key_file: str = ""


class ExportResult(Wire):
    snapshot: str
    path: str
    bytes: int
    contents: tuple[str, ...] = ()  # what is in it, in words


class ImportRequest(Wire):
    """An administrator's act: the images in the file set user ids, capabilities and mounts.

    `key_file` is the one it was exported with; "": it is in the clear, and nothing proves who wrote it.
    """

    path: str
    key_file: str = ""
    name: str = Field(pattern=NAME_PATTERN)
    project: str = "default"
    allow_mounts: tuple[str, ...] = ()
