"""What a rank finds when it wakes: its variables, its command, its cores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from ergosphere.agent.ports import Refused
from ergosphere.core.launcher import MASTER_PORT, command_of_rank, rank_variables
from ergosphere.wire.agents import CellPlan, LifePlan
from ergosphere.wire.jobs import JobSpec

SHIM_PATH: Final = "/run/ergo/shim"
# The submitter's access to us, and to everybody's snapshots, is not the job's.
OURS: Final = frozenset({"ERGO_HOME", "ERGO_TOKEN", "ERGO_URL", "ERGO_KEY", "ERGO_KEY_FILE"})
LOOPBACK: Final = "127.0.0.1"
HOST_PORTS: Final = range(20_000, 29_001)  # below the kernel's own choices; a prime number of them spreads the jobs
NOT_FOUND: Final = 127  # as shells say it
NOT_EXECUTABLE: Final = 126
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of one node and how its CPU devices share them: its own for each where there are enough."""

    cores: tuple[int, ...]
    devices: int

    def of(self, device: int) -> tuple[int, ...]:
        """The cores a rank on `device` may use."""
        each = len(self.cores) // self.devices
        if each == 0:
            return self.cores
        return self.cores[device * each : (device + 1) * each]


def variables(plan: LifePlan, rank: int) -> dict[str, str]:
    """The environment of one rank: the submitter's, what its launcher would have set, and the little that is ours."""
    spec = plan.spec
    world = {name: value for name, value in spec.env.items() if name not in OURS}
    world.update(rank_variables(rank, spec.ranks, *_master(plan), launched=spec.rank_env))
    world.setdefault("OMP_NUM_THREADS", str(plan.threads))
    world.setdefault("PATH", DEFAULT_PATH)
    world["PWD"] = spec.workdir
    world["ERGO_ADDRESS"] = next(address_of(plan, cell) for cell in plan.cells if rank in cell.ranks)
    world["PYTHONPATH"] = os.pathsep.join(filter(None, (SHIM_PATH, spec.env.get("PYTHONPATH", ""))))
    return world


def _master(plan: LifePlan) -> tuple[str, int]:
    """Address and port where the ranks meet. On the host's network, jobs cannot all have torchrun's port."""
    address = plan.cells[0].address
    if plan.spec.network != "host":
        return address or LOOPBACK, MASTER_PORT
    return LOOPBACK, HOST_PORTS[int(IPv4Address(address or LOOPBACK)) % len(HOST_PORTS)]


def address_of(plan: LifePlan, cell: CellPlan) -> str:
    """Where its peers find a cell. On the host's network nobody has its own address, and all cells are on this host."""
    return LOOPBACK if plan.spec.network == "host" else cell.address


def command(spec: JobSpec, rank: int, world: Mapping[str, str], work: Path) -> tuple[str, ...]:
    """The rank's command with its program as an absolute path; raises Refused where this node has no such program."""
    launched = command_of_rank(spec.command, rank) if spec.launcher == "torchrun" else spec.command
    program, *arguments = launched
    return (_program(program, spec.workdir, world.get("PATH", DEFAULT_PATH), work), *arguments)


def _program(program: str, workdir: str, path: str, work: Path) -> str:
    if "/" not in program:
        found = shutil.which(program, path=path)
        if found is None:
            raise Refused(
                f"{program}: command not found on this node",
                remedy=f"PATH was {path}; give the program's full path or add its folder to PATH",
                lasting=True,
                exit_code=NOT_FOUND,
            )
        return str(Path(found).absolute())
    absolute = os.path.normpath(Path(workdir) / program)
    inside = _in_copy(absolute, workdir, work)
    if not inside.exists():
        raise Refused(
            f"{program}: no such file on this node",
            remedy="outside the working directory it must exist on the node; inside, ignored files are not copied",
            lasting=True,
            exit_code=NOT_FOUND,
        )
    if inside.is_dir() or not os.access(inside, os.X_OK):
        raise Refused(
            f"{program}: not executable",
            remedy=f"chmod +x {program}, or name its interpreter",
            lasting=True,
            exit_code=NOT_EXECUTABLE,
        )
    return absolute


def _in_copy(absolute: str, workdir: str, work: Path) -> Path:
    """Where a path of the job lies on the host: in its copy if that has it, else at the path itself."""
    if absolute.startswith(workdir.rstrip("/") + "/"):
        copied = work / os.path.relpath(absolute, workdir)
        if copied.exists():
            return copied
    return Path(absolute)


def threads_of(cores: Sequence[int]) -> int:
    return max(1, len(cores))
