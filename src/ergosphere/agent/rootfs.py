"""The mount plan of a rank's root (design §3.8 "Root"): what it sees of its host, and what of that it may write.

A plan is data and names no place of one node: sources that lie elsewhere on each node are symbols (`@work`), resolved
by `Places`. So the plan a rank was launched by is kept in its snapshot and used again wherever it is thawed. The keeper
carries it out (`keeper/root.py`); CRIU is told of every bind as an external mount.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ergosphere.agent.hostmounts import HostMount, read_mounts
from ergosphere.core.workdir import OWN, REMEDY, below_any, refusal, within

Kind = Literal["bind", "inner", "tmpfs", "proc", "devpts"]

RANK_AT: Final = "/run/ergo"
SHARED_AT: Final = f"{RANK_AT}/shared"
WORK, CACHE, RANK, EMPTY, SHARED = "@work", "@cache", "@rank", "@empty", "@shared"
RESOLV_CONF: Final = "/etc/resolv.conf"


class RootError(Exception):
    """A root that cannot be: the cause first, then the remedy."""

    def __init__(self, error: str, remedy: str) -> None:
        super().__init__(f"{error}; {remedy}")
        self.error, self.remedy = error, remedy


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a plan. `source`: a host path, or a symbol and what is below it; for "inner" a path in the root."""

    kind: Kind
    target: str
    source: str = ""
    writable: bool = False
    options: str = ""

    @property
    def key(self) -> str:
        """CRIU's name for it, the same on every node."""
        return "m" + hashlib.blake2b(self.target.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class RootPlan:
    """Mounts, parents before children and "inner" ones last, and links to be made in the rank's own /run."""

    mounts: tuple[Mount, ...]
    links: tuple[tuple[str, str], ...] = ()

    @property
    def binds(self) -> tuple[Mount, ...]:
        """What CRIU has to be told of."""
        return tuple(mount for mount in self.mounts if mount.kind == "bind")


@dataclass(frozen=True, slots=True)
class RootSpec:
    """What a job asks of its root. Paths are absolute; `bound` is relative to `workdir`.

    `hidden`: folders the rank must not see ($ERGO_HOME). `opened`: (path, writable) of each --mount. `home`: the
    owner's home; with `cache`, the cell's copy of its .cache is bound there.
    """

    workdir: str
    hidden: tuple[str, ...]
    bound: tuple[str, ...] = ()
    opened: tuple[tuple[str, bool], ...] = ()
    home: str | None = None
    cache: bool = True
    shared: bool = False  # a folder in memory for all ranks of the job on its node


@dataclass(frozen=True, slots=True)
class Places:
    """Where one rank's things lie on this node. `root` and `empty` are empty folders; `rank` is seen at /run/ergo."""

    root: Path
    empty: Path
    work: Path
    rank: Path
    cache: Path | None = None
    shared: Path | None = None

    def resolve(self, source: str) -> str:
        """The host path of a plan's source."""
        symbol, slash, below = source.partition("/")
        base = {WORK: self.work, CACHE: self.cache, RANK: self.rank, EMPTY: self.empty, SHARED: self.shared}.get(symbol)
        return source if base is None else f"{base}{slash}{below}"


def make_plan(spec: RootSpec, mounts: Sequence[HostMount] | None = None) -> RootPlan:
    """The plan for a job on this host. Raises RootError when its working directory or a mount cannot be."""
    workdir = os.path.realpath(spec.workdir)
    _check_workdir(workdir, spec.home)
    wanted: dict[str, Mount] = {}
    host = read_mounts() if mounts is None else mounts
    for mount in (*_mirrored(host), *_own(), *_opened(spec, host)):
        wanted[mount.target] = mount
    _put_work(wanted, spec, workdir, host)
    if spec.cache and spec.home is not None and _may_have_cache(spec.home):
        cache = os.path.realpath(f"{spec.home}/.cache")
        wanted[cache] = Mount("bind", cache, CACHE, writable=True)
    if spec.shared:
        wanted[SHARED_AT] = Mount("bind", SHARED_AT, SHARED, writable=True)
    _hide(wanted, spec.hidden)
    ordered = sorted(wanted.values(), key=lambda mount: (mount.kind == "inner", mount.target.split("/")))
    return RootPlan(tuple(ordered), _resolver_links())


def _check_workdir(workdir: str, home: str | None) -> None:
    refused = refusal(workdir, None if home is None else os.path.realpath(home))
    if refused is not None:
        raise RootError(refused.error, refused.remedy)
    if os.path.lexists(workdir) and not Path(workdir).is_dir():
        raise RootError(f"the working directory {workdir} is not a folder", REMEDY)


def _mirrored(mounts: Iterable[HostMount]) -> list[Mount]:
    """Every real mount of the host, read-only; what lies in a folder the rank has of its own is left out."""
    return [
        Mount("bind", mount.target, mount.target)
        for mount in mounts
        if mount.real and mount.target != "/" and mount.target not in OWN and not below_any(mount.target, OWN)
    ]


def _own() -> list[Mount]:
    """What every rank has of its own.

    /dev/ptmx is the own devpts's: CRIU sets its owner, and /dev is read-only. /proc/sys is the host's kernel.
    """
    return [
        Mount("proc", "/proc", writable=True),
        Mount("inner", "/proc/sys", "/proc/sys"),
        Mount("bind", "/sys", "/sys"),
        Mount("bind", "/dev", "/dev"),
        Mount("devpts", "/dev/pts", writable=True, options="newinstance,ptmxmode=0666,mode=0620,gid=5"),
        Mount("inner", "/dev/ptmx", "/dev/pts/ptmx", writable=True),
        Mount("tmpfs", "/dev/shm", writable=True, options="mode=1777"),
        Mount("tmpfs", "/tmp", writable=True, options="mode=1777"),
        Mount("tmpfs", "/run", writable=True, options="mode=755"),
        Mount("bind", RANK_AT, RANK, writable=True),
        Mount("bind", "/etc/hosts", f"{RANK}/hosts"),
    ]


def _opened(spec: RootSpec, host: Sequence[HostMount]) -> list[Mount]:
    """Each --mount, and the host's mounts below it, which a bind alone would lose."""
    mounts: list[Mount] = []
    for path, writable in spec.opened:
        at = os.path.realpath(path)
        if at == "/" or at in OWN or below_any(at, ("/proc", "/sys")):
            raise RootError(f"--mount {path}: each rank has its own {at}", "name a folder or a file of yours")
        if not os.path.lexists(at):
            raise RootError(f"--mount {path}: there is no such path on this node", "make it, or leave the flag out")
        mounts += [Mount("bind", target, target, writable=writable) for target in (at, *_mounted_below(host, at))]
    return mounts


def _put_work(wanted: dict[str, Mount], spec: RootSpec, workdir: str, host: Sequence[HostMount]) -> None:
    """The copy in place of the original: nothing below shines through but the ignored paths and what was opened."""
    opened = [os.path.realpath(path) for path, _ in spec.opened]
    for target in [target for target in wanted if within(target, workdir)]:
        if not any(within(target, path) for path in opened):
            del wanted[target]
    if workdir not in opened:  # --mount of the working directory itself: the original is shared, not copied
        wanted[workdir] = Mount("bind", workdir, WORK, writable=True)
    for relative in spec.bound:
        at = os.path.normpath(f"{workdir}/{relative}")
        if not within(at, workdir) or at == workdir:
            raise RootError(f"{relative} is not below the working directory", "name paths inside it")
        if Path(at).is_symlink() or not Path(at).exists():
            continue  # a link is copied with the rest; what is not there cannot be shown
        for target in (at, *_mounted_below(host, at)):
            wanted[target] = Mount("bind", target, target)


def _mounted_below(host: Iterable[HostMount], path: str) -> list[str]:
    """The host's mounts below `path`: binding the path alone would lose them."""
    return [mount.target for mount in host if mount.real and below_any(mount.target, (path,))]


def _may_have_cache(home: str) -> bool:
    """A home that is no folder here, or that the rank has of its own anyway, gets no cache."""
    real = os.path.realpath(home)
    return Path(real).is_dir() and real != "/" and not below_any(real, OWN)


def _hide(wanted: dict[str, Mount], hidden: Iterable[str]) -> None:
    """An empty folder over each hidden one, where it would shine through, and over nothing mirrored below it."""
    for folder in map(os.path.realpath, hidden):
        for target in [target for target in wanted if within(target, folder)]:
            if wanted[target].source == target:
                del wanted[target]
        above = max((target for target in wanted if within(folder, target)), key=len, default="/")
        if above == "/" or wanted[above].source == above:
            wanted[folder] = Mount("bind", folder, EMPTY)


def _resolver_links() -> tuple[tuple[str, str], ...]:
    """/etc/resolv.conf often is a link into /run, which the rank has of its own: it leads to the rank's own copy."""
    real = os.path.realpath(RESOLV_CONF)
    return ((real, f"{RANK_AT}/resolv.conf"),) if within(real, "/run") else ()


def places_to_keeper(plan: RootPlan, places: Places) -> dict[str, Any]:
    """The `root_plan` of a launch or restore order: everything resolved to host paths of this node."""
    mounts = [
        {
            "kind": mount.kind,
            "source": places.resolve(mount.source),
            "target": mount.target,
            "ro": not mount.writable,
            "key": mount.key,
            "options": mount.options,
        }
        for mount in plan.mounts
    ]
    return {"root": str(places.root), "mounts": mounts, "links": [list(link) for link in plan.links]}


def dump_externals(plan: RootPlan) -> list[str]:
    """Arguments of `criu dump`: every bind by its key."""
    return [word for mount in plan.binds for word in ("--external", f"mnt[{mount.target}]:{mount.key}")]


def restore_externals(plan: RootPlan, places: Places) -> list[str]:
    """Arguments of `criu restore`: its root, and every bind where the keeper stages it."""
    binds = [word for m in plan.binds for word in ("--external", f"mnt[{m.key}]:{places.root}/{m.key}")]
    return ["--root", f"{places.root}/root", *binds]


def missing_sources(plan: RootPlan, places: Places) -> tuple[str, ...]:
    """Host paths of the plan that this node lacks: a rank cannot be thawed here without them."""
    return tuple(source for m in plan.binds if not os.path.lexists(source := places.resolve(m.source)))


def is_hosts(plan: RootPlan, path: str, *, writable: bool) -> bool:
    """Whether a rank finds the host's own file at `path`, and one that it may write (`writable`) or may not."""
    shown = max((mount for mount in plan.mounts if within(path, mount.target)), key=_depth, default=None)
    if shown is None:
        return not writable  # the root itself
    return shown.kind == "bind" and shown.source == shown.target and shown.writable is writable


def _depth(mount: Mount) -> int:
    return len(mount.target)


def without_vanished(plan: RootPlan, asked: Sequence[str]) -> RootPlan:
    """The plan without mounts of the host that nobody `asked` for, were only mirrored, and are gone (a USB stick)."""
    gone = {
        mount.target
        for mount in plan.binds
        if mount.source == mount.target
        and not os.path.lexists(mount.target)
        and not any(within(mount.target, path) for path in asked)
    }
    return RootPlan(tuple(mount for mount in plan.mounts if mount.target not in gone), plan.links)


def plan_to_json(plan: RootPlan) -> dict[str, Any]:
    """For a snapshot's manifest."""
    return {"mounts": [asdict(mount) for mount in plan.mounts], "links": [list(link) for link in plan.links]}


def plan_from_json(document: Mapping[str, Any]) -> RootPlan:
    """The reverse of plan_to_json."""
    mounts = tuple(Mount(**mount) for mount in document["mounts"])
    return RootPlan(mounts, tuple((path, to) for path, to in document["links"]))


def prepare_rank(folder: Path, init: Path, hosts: Mapping[str, str], private_network: bool) -> None:
    """The files a rank finds at /run/ergo before anything of it runs: init, its names, its resolver, empty logs.

    `hosts`: host name → address, added to the node's own. What is there already (logs of a thaw) stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / "init", init.read_bytes(), 0o755)
    # TCPStore asks for the name behind each peer, as IPv4 in IPv6: without an answer here that takes seconds.
    lines = [f"{prefix}{address}\t{name}" for name, address in hosts.items() for prefix in ("", "::ffff:")]
    lines.append("::ffff:127.0.0.1\tlocalhost")
    node = Path("/etc/hosts")
    known = node.read_text() if node.exists() else "127.0.0.1\tlocalhost\n"
    _put(folder / "hosts", (known.rstrip("\n") + "\n" + "\n".join(lines) + "\n").encode(), 0o644)
    _put(folder / "resolv.conf", _resolver(private_network).encode(), 0o644)
    for name in ("out.log", "err.log", "status"):
        (folder / name).touch()
        (folder / name).chmod(0o644)  # CRIU compares the mode: logs rebuilt by a thaw get the one they had


def _resolver(private_network: bool) -> str:
    """The node's resolver; where it is on the host's loopback, out of reach of a private network, what is behind it."""
    behind = Path("/run/systemd/resolve/resolv.conf")
    try:
        text = Path(RESOLV_CONF).read_text()
        if private_network and "nameserver 127." in text and behind.exists():
            return behind.read_text()
        return text
    except OSError:
        return ""


def _put(path: Path, content: bytes, mode: int) -> None:
    """Never a new file in place of one that says the same: it may be running, or bound in a rank's root."""
    if path.exists() and path.read_bytes() == content:
        return
    path.write_bytes(content)
    path.chmod(mode)
