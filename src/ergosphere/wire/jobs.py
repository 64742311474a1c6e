"""What a user submits and reads back: the public API's nouns (pydantic; unknown fields are refused)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ergosphere.core.model import Cause, Phase, Rung, Tier

ARRAY_MAX = 10_000  # jobs of one array, or replicas of one service
AFTER_MAX = 1_000  # jobs that one job may wait for
GRACE_S_MAX = 3600.0  # devices that others wait for stay taken for so long
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
LABELS_MAX = 100  # types or regions of one job
Label = Annotated[str, Field(pattern=NAME_PATTERN)]


class Wire(BaseModel):
    """Base of every message: frozen, and a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Told(Wire):
    """Base of what is told again and again and orders nothing: what a newer version says besides is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Mount(Wire):
    """A path of the node opened to the job beside its root: `--mount PATH[:rw]`."""

    path: str
    writable: bool = False


class TreeRef(Wire):
    """A content-addressed copy of a directory: the digest of its `snapshots.tree.Tree` document in the store."""

    digest: str
    files: int
    bytes: int


class JobSpec(Wire):
    """A command to run unmodified, and everything that is fixed at submission and never changes on a move or resize."""

    command: tuple[str, ...] = Field(min_length=1)
    name: str = Field(pattern=NAME_PATTERN)
    project: str = "default"
    tier: Tier = Tier.STANDARD
    ranks: int = Field(default=1, ge=1, le=100_000)
    launcher: Literal["plain", "torchrun", "opaque"] = "plain"  # opaque: accelerate, mpirun … run as one rank tree
    rank_env: dict[str, str] = {}  # what the launcher would have set besides the per-rank variables
    env: dict[str, str] = {}  # the submitter's environment as narrowed by --export
    workdir: str  # the submitter's absolute path; the job's copy is bound over it
    tree: TreeRef | None = None  # None: an empty working copy
    bound: tuple[str, ...] = ()  # paths relative to workdir bound read-only from the original (.venv, .git)
    mounts: tuple[Mount, ...] = ()
    network: Literal["private", "host", "none"] = "private"
    threads: int | None = None  # None: the device's cores, fixed at the first start
    snapshot_every_s: float | None = Field(default=None, gt=0)
    max_restarts: int = Field(default=3, ge=0)
    hold_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # how long a cut may wait for a rank
    grace_s: Annotated[float, Field(gt=0, le=GRACE_S_MAX)] | None = None  # to save itself where it cannot be frozen
    signal: Literal["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"] = "TERM"  # that tells it to
    keep_snapshots: int = Field(default=2, ge=1, le=1000)  # the newest that are kept, beside named ones
    min_devices: int | None = Field(default=None, ge=1)  # the fewest its ranks may share; None: a quarter of them
    exact: Literal["auto", "on", "off"] = "auto"  # sums in rank order, the same on any number of devices
    after: tuple[str, ...] = Field(default=(), max_length=AFTER_MAX)  # ids or names of jobs whose success it waits for
    array: tuple[int, ...] = Field(default=(), max_length=ARRAY_MAX)  # one job for each index; () = a single job
    replicas: tuple[int, int] | None = None  # a service: the fewest and the most of it that run
    deadline_s: float | None = None  # a wish, seconds since the epoch: earlier ones go first among equals
    types: dict[Label, Annotated[float, Field(gt=0, lt=1e6)]] = Field(default={}, max_length=LABELS_MAX)  # device types
    # that it can use, each with its speed as measured; {}: any, all alike
    device_gib: float = Field(default=0.0, ge=0, le=1e6)  # memory that it needs of each device
    regions: tuple[Label, ...] = Field(default=(), max_length=LABELS_MAX)  # where it may run; (): anywhere
    data: Label | Literal[""] = ""  # the region where its data lies: taken first

    @model_validator(mode="after")
    def _one_of_many(self) -> JobSpec:
        if self.replicas is not None:
            least, most = self.replicas
            if not 0 <= least <= most or not 1 <= most <= ARRAY_MAX:
                raise ValueError(f"replicas: {least} to {most} is no range from 0 to {ARRAY_MAX}")
            if self.array:
                raise ValueError("a service has replicas and no array")
        if len(set(self.array)) != len(self.array) or any(index < 0 for index in self.array):
            raise ValueError("array: indexes are whole numbers from 0, each once")
        return self


class SnapshotInfo(Wire):
    id: str
    taken_s: float
    why: str
    bytes: int
    stopped_s: float  # how long the job stood still for it
    durability: Literal["node", "remote"]
    job: str = ""
    number: int = 0  # counts a job's snapshots
    name: str = ""  # named ones are kept until they are removed
    damaged: bool = False
    out_of_reach: bool = False  # not remote yet, and its node is gone
    uploaded: float | None = None  # share of its bytes in the shared store while they are on their way
    trouble: str = ""  # why they did not get there yet; of a remote one, what a check found wrong with them there
    nodes: tuple[str, ...] = ()  # where it was taken: their memory may still hold its images
    origin: str = ""  # "JOB@SNAPSHOT" of a copy that a fork began with


class Sharing(Told):
    """How a rank shares its device, as its shim tells it. Bytes and steps are counted, never guessed; 0 = not yet."""

    state: str  # alone, turns or spliced
    why: str | None = None  # why it is not spliced, or its sums are not exact
    exact: bool = False
    shared_bytes: int = 0  # held once on the device
    parameter_bytes: int = 0
    optimizer_bytes: int = 0
    gradient_bytes: int = 0
    steps_shared: int = 0
    steps_alone: int = 0
    check_interval_steps: int = 0
    check_ms: float = 0.0
    turn_ms: float = 0.0
    shard: str | None = None


class RankSharing(Sharing):
    rank: int


class RankProcess(Wire):
    """The main process of a rank that runs: its number as its node counts, outside the job."""

    rank: int
    node: str
    pid: int


class AccountInfo(Wire):
    """A job's GPU-fraction account, in device-seconds; see `core.model.Account`."""

    devices: int
    opened_s: float
    at_s: float
    rate: float = 0.0
    counts: bool = True
    cause: Cause = Cause.QUEUE
    window_s: float = 0.0
    delivered: float = 0.0
    entitled: float = 0.0
    life_delivered: float = 0.0
    life_entitled: float = 0.0


class JobInfo(Wire):
    """One row of `ergo ps`, and the head of `ergo show`."""

    id: str
    name: str
    project: str
    tier: Tier
    ranks: int
    phase: Phase
    command: tuple[str, ...]
    submitted_s: float
    started_s: float | None = None
    ended_s: float | None = None
    exit_code: int | None = None
    incarnation: int = 0
    nodes: tuple[str, ...] = ()  # per rank
    addresses: tuple[str, ...] = ()  # per cell
    moves: int = 0
    recoveries: int = 0
    pauses: int = 0
    paused_total_s: float = 0.0  # seconds not computing since the first start
    lost_lines: int = 0  # log lines that had to be produced again
    lost_s: float = 0.0  # seconds of work that had to be done again
    rung: Rung = Rung.TRANSPARENT
    rung_because: str = ""
    reason: str = ""  # why it waits, or what it is doing
    remedy: str = ""
    paused: bool = False
    devices: int = 0  # that it has now; 0 while it has none
    min_devices: int = 0  # the fewest it may be given
    devices_asked: int = 0  # the most its owner wants; 0: one for each rank
    resizes: int = 0
    after: tuple[str, ...] = ()  # jobs whose success it still waits for
    service: str = ""  # it is a replica of this service
    wanted: bool = True  # False: a replica that the load does not ask for
    deadline_s: float | None = None
    running_since_s: float | None = None
    account: AccountInfo | None = None
    freeze_cost_s: float = 1.0  # what its next freeze and thaw will take, as measured
    thaw_cost_s: float = 1.0
    upload_cost_s: float = 1.0  # from the end of the freeze until the snapshot is remote
    measured: int = 0  # its own freezes from which that is foretold; 0: others' on its nodes, or a guess


class JobDetail(JobInfo):
    workdir: str
    network: str
    mounts: tuple[Mount, ...] = ()
    threads: int | None = None
    snapshot_every_s: float | None = None
    max_restarts: int = 3
    grace_s: float | None = None
    signal: str = "TERM"
    env_names: tuple[str, ...] = ()  # values are never shown
    fork_names: tuple[str, ...] = ()  # of them, those that a fork was given
    snapshots: tuple[SnapshotInfo, ...] = ()
    forked_from: str = ""
    notes: tuple[str, ...] = ()
    exact: str = "auto"
    sharing: tuple[RankSharing, ...] = ()  # of the ranks that have told
    processes: tuple[RankProcess, ...] = ()  # of the ranks that run


class EventInfo(Wire):
    """One line of history: who did what to which job, and why."""

    seq: int
    at_s: float
    job: str | None
    actor: str  # owner, policy, agent:<node>, server
    kind: str
    text: str


class LastWords(Wire):
    """The end of the standard error of the rank that failed first; whatever it wrote, control characters too."""

    rank: int
    lines: tuple[str, ...]


class Explanation(Wire):
    """Why a job is where it is, and the smallest thing that would change it."""

    job: str
    phase: Phase
    reason: str
    remedy: str
    requirements: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    rung: str = ""  # where it cannot be frozen: what is done instead, and why
    freeze_cost_s: float | None = None  # this and the next: what freezing it will take, as measured
    upload_cost_s: float | None = None
    measured: int = 0
    last_words: LastWords | None = None  # of a job that failed


class NodeInfo(Wire):
    id: str
    devices: int
    used: tuple[str | None, ...]  # job per device
    ready: bool
    draining: bool
    lease_left_s: float
    detail: str = ""
    region: str = ""
    cluster: str = ""
    domain: str = ""
    type: str = ""  # of its devices
    device_gib: float = 0.0  # memory of one; 0: not known
    spot: bool = False
    leaves_s: float | None = None  # it was said to be gone then, seconds since the epoch
    flaky_until_s: float = 0.0  # it failed lately: avoided until then
    machine: str = ""  # nodes of one machine read each other's snapshots; "": not known


class LogPage(Wire):
    """Raw bytes of one rank's stream from `offset`, base64, so that they are stored and compared as they are."""

    rank: int
    stream: Literal["out", "err"]
    offset: int
    data: str
    ended: bool  # the job has ended and this page reaches the end


class Problem(Wire):
    """Every error of the API: cause first, remedy second."""

    error: str
    remedy: str = ""
