"""The undisturbed run without ergo: each rank a plain process, in a copy of the directory bound over the same path."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ergosphere import system
from ergosphere.agent import cgroups
from ergosphere.agent.world import Cores, threads_of
from ergosphere.cli.errors import CliError
from ergosphere.cli.printing import Source
from ergosphere.cli.program import find_program
from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.cli.workcopy import WorkCopy
from ergosphere.core.launcher import command_of_rank, rank_variables
from ergosphere.snapshots.digests import digest_file
from ergosphere.snapshots.layout import materialise
from ergosphere.snapshots.scan import NO_LIMITS, scan
from ergosphere.snapshots.tree import Kind
from ergosphere.system import Clock
from ergosphere.wire.jobs import JobSpec

LOOK_S: Final = 0.05
LATE_S_MAX: Final = 0.5  # until a process that was started as the run was called off has come into its group
LATECOMERS_MAX: Final = 20
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# In a mount namespace of its own: the copy over the path it was made from, then the command.
_IN_COPY: Final = """set -e
echo $$ > "$1"
ergo_mount=$2 ergo_copy=$3 ergo_at=$4
shift 4
while [ "$1" != -- ]; do "$ergo_mount" --rbind "$ergo_at/$1" "$ergo_copy/$1"; shift; done
shift
"$ergo_mount" --rbind "$ergo_copy" "$ergo_at"
cd "$ergo_at"
exec "$@"
"""

Watch = Callable[[int], None]  # told now and then how many bytes all ranks have written


@dataclass(frozen=True, slots=True)
class PlainRun:
    """What to run: the job as it would be submitted, its files, and the cores its ranks would get."""

    spec: JobSpec
    copy: WorkCopy
    cores: Cores


def run_plain(run: PlainRun, folder: Path, group: str, clock: Clock, watch: Watch = lambda _: None) -> Outcome:
    """Run it to its end in `folder`. Every process is in the cgroup `group` and ends with this call."""
    files = folder / "work"
    materialise(run.copy.tree, files, _from_original(run.copy))
    bound = tuple(path for path in run.copy.bound if _make_place(files / path, run.copy.root / path))
    began_s = clock.monotonic()
    with _group(group) as freezer:
        port = free_port()
        ranks = [_start(run, (rank, port), folder, bound, freezer) for rank in range(run.spec.ranks)]
        while any(process.poll() is None for process in ranks):
            watch(sum(path.stat().st_size for path in folder.glob("rank*")))
            clock.sleep(LOOK_S)
        span_s = clock.monotonic() - began_s
    streams = {
        source: (folder / _log(source)).read_bytes() for rank in range(run.spec.ranks) for source in sources(rank)
    }
    tree = scan(files, lambda path, _: path in bound, NO_LIMITS).tree
    return Outcome(_exit_code(ranks), streams, tree, lambda entry: (files / entry.path).read_bytes(), span_s)


def sources(rank: int) -> tuple[Source, Source]:
    """A rank's standard output and standard error."""
    return Source(rank, "out"), Source(rank, "err")


@contextmanager
def _group(name: str) -> Iterator[cgroups.Freezer]:
    """A cgroup for the run; whatever is left in it ends with the block."""
    freezer = cgroups.freezer(name, cgroups.choose(system.freezer_version()))
    freezer.create()
    try:
        yield freezer
    finally:
        _end(freezer)


def _end(freezer: cgroups.Freezer) -> None:
    """Ends what is in the group and removes it. A process that was just started may yet come in, and is ended then."""
    for _ in range(LATECOMERS_MAX):
        freezer.kill()
        with suppress(cgroups.CgroupError):
            freezer.remove(LATE_S_MAX)
            return
    freezer.kill()
    freezer.remove()


def free_port() -> int:
    """A port of the loopback for rank 0 to meet the others at: the usual one may be another run's just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def variables(run: PlainRun, rank: int, port: int) -> dict[str, str]:
    """A rank's environment: the submitter's and what its launcher would have set, nothing of ours."""
    launched = rank_variables(rank, run.spec.ranks, "127.0.0.1", port, launched=run.spec.rank_env)
    world = {**run.spec.env, **launched}
    world.setdefault("OMP_NUM_THREADS", str(run.spec.threads or threads_of(run.cores.of(rank))))
    return world


def _start(
    run: PlainRun, place: tuple[int, int], folder: Path, bound: tuple[str, ...], freezer: cgroups.Freezer
) -> subprocess.Popen[bytes]:
    rank, port = place
    world = variables(run, rank, port)
    launched = run.spec.launcher == "torchrun"  # only its command lines have places to fill in
    program, *arguments = command_of_rank(run.spec.command, rank) if launched else run.spec.command
    program = str(find_program(program, world.get("PATH"), Path(run.spec.workdir)))
    cores = ",".join(str(core) for core in run.cores.of(rank))
    own = [_tool("unshare"), "--mount", "--propagation", "private", _tool("sh"), "-c", _IN_COPY, "sh"]
    where = [
        str(freezer.path / "cgroup.procs"),
        _tool("mount"),
        str(folder / "work"),
        run.spec.workdir,
        *bound,
        "--",
    ]
    with ExitStack() as opened:
        out, err = (opened.enter_context((folder / _log(source)).open("ab")) for source in sources(rank))
        return subprocess.Popen(
            [*own, *where, _tool("taskset"), "-c", cores, program, *arguments],
            env=world,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def _log(source: Source) -> str:
    return f"rank{source.rank}.{source.stream}"


def _tool(name: str) -> str:
    found = shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        raise CliError(f"{name} is not installed", "install util-linux, or compare with --against ergo")
    return found


def _from_original(copy: WorkCopy) -> Callable[[str, Path], None]:
    paths = {entry.digest: entry.path for entry in copy.tree.entries if entry.kind is Kind.FILE}

    def fetch(digest: str, dest: Path) -> None:
        shutil.copyfile(copy.root / paths[digest], dest)
        if digest_file(dest) != digest:
            raise CliError(f"{copy.root / paths[digest]} changed while it was copied", "try again when it is at rest")

    return fetch


def _make_place(place: Path, original: Path) -> bool:
    """A place in the copy on which the original can be bound; it is no result of the run."""
    if os.path.lexists(place) or not original.exists() or original.is_symlink():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    if original.is_dir():
        place.mkdir()
    else:
        place.touch()
    return True


def _exit_code(ranks: list[subprocess.Popen[bytes]]) -> int:
    """The first that is not zero, as a shell has it."""
    codes = [process.returncode for process in ranks]
    return next((code if code > 0 else 128 - code for code in codes if code != 0), 0)
