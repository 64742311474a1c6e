"""What `ergo check` says: whether this machine can freeze and thaw jobs, and what to do where it cannot.

Each check tries the thing itself where that is possible, takes at most a few seconds and changes nothing that stays.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ergosphere.agent import cgroups, provision, self_test

TRY_S_MAX: Final = 10.0
CUDA_S_MAX: Final = 30.0  # the first call into a cold driver with eight GPUs takes several seconds
SHM_BYTES_MIN: Final = 1 << 30  # images of small jobs; a job needs about its own resident memory while it is frozen

CAPABILITIES: Final = {"CAP_SYS_ADMIN": 21, "CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_CHECKPOINT_RESTORE": 40}
CAP_SYS_RESOURCE: Final = 24
TOOLS: Final = {"ip": "iproute2", "tar": "tar", "gzip": "gzip", "unshare": "util-linux", "mount": "mount"}

PAGEMAP_SCAN: Final = 3 << 30 | 96 << 16 | ord("f") << 8 | 16  # _IOWR('f', 16, struct pm_scan_arg), 12 words
SOFT_DIRTY: Final = 1 << 55  # in an entry of /proc/PID/pagemap

TRANSPARENT: Final = "transparent"
COOPERATIVE: Final = "cooperative"
RESTART: Final = "restart"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: `ok` None means "does not apply here". Without a `required` one no job can be frozen."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""
    required: bool = True


def checks(criu_home: Path) -> list[Check]:
    """Every check, in the order in which they are worth reading. `criu_home` is where `ergo setup` keeps its CRIU."""
    tool = provision.find(criu_home) or _on_path()
    found = [
        privileges(),
        checkpoint_restore(),
        namespaces(),
        freezer(),
        criu_version(tool),
        criu_self_test(tool),
        tools(),
        shared_memory(),
        outside_network(tool),
        page_scan(),
        soft_dirty(),
        resource_capability(),
        *cuda(),
    ]
    return [*found, rung(found)]


def rung(found: Sequence[Check]) -> Check:
    """Which rung of the ladder jobs get here, by what was found."""
    missing = [check.name for check in found if check.required and check.ok is False]
    name = "jobs here are"
    if not missing:
        return Check(
            name,
            True,
            f"{TRANSPARENT}: frozen and thawed without their knowing; one that cannot be is {COOPERATIVE} where it was"
            f" submitted with --grace, else {RESTART}",
        )
    return Check(
        name,
        False,
        f"{RESTART}: they run, cannot be paused or moved, and begin again when lost; because of {', '.join(missing)}",
        "mend what is marked above to get transparent jobs",
        required=False,
    )


# --- privileges and kernel ----------------------------------------------------------------------------------------


def privileges() -> Check:
    """Root, with the capabilities that taking processes apart needs."""
    if os.geteuid() != 0:
        return Check("privileges", False, "not root", "run as root (sudo)")
    lacking = [name for name, bit in CAPABILITIES.items() if not _capable(bit)]
    if lacking:
        return Check(
            "privileges", False, f"root without {', '.join(lacking)}", "run outside a container, or in a privileged one"
        )
    return Check("privileges", True, "root with all capabilities that are needed")


def resource_capability() -> Check:
    """CAP_SYS_RESOURCE: needed to put back the limits of processes that are not root."""
    name = "CAP_SYS_RESOURCE"
    if _capable(CAP_SYS_RESOURCE):
        return Check(name, True, "present", required=False)
    return Check(
        name,
        False,
        "absent: jobs that run as root can be frozen, jobs under another user cannot",
        "give it to the agent (container: --cap-add SYS_RESOURCE), or run jobs as root",
        required=False,
    )


def _capable(bit: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def checkpoint_restore() -> Check:
    """CONFIG_CHECKPOINT_RESTORE, by the files that it brings."""
    name, kernel = "checkpoint/restore", platform.release()
    if Path("/proc/sys/kernel/ns_last_pid").exists() and Path("/proc/self/map_files").exists():
        return Check(name, True, f"in kernel {kernel}")
    return Check(
        name,
        False,
        f"kernel {kernel} was built without it",
        "use one with CONFIG_CHECKPOINT_RESTORE=y (Debian's have it)",
    )


def namespaces() -> Check:
    """All the namespaces a rank gets, made for real."""
    trouble = _tried("unshare", "--pid", "--time", "--mount", "--ipc", "--uts", "--net", "--fork", "true")
    if trouble is None:
        return Check("namespaces", True, "PID, time, mount, IPC, UTS and network")
    return Check(
        "namespaces",
        False,
        f"could not be made: {trouble}",
        "run as root on Linux 5.6 or later, in no unprivileged container",
    )


def freezer() -> Check:
    """A cgroup freezer in which groups can be made."""
    usable = [found for found in cgroups.hierarchies() if cgroups.usable(found)]
    if usable:
        return Check("freezer", True, " and ".join(f"cgroup v{found.version} at {found.mount}" for found in usable))
    try:
        cgroups.choose()
    except cgroups.CgroupError as error:
        cause, _, remedy = str(error).partition(": ")
        return Check("freezer", False, cause, remedy)
    return Check("freezer", False, "came and went while it was looked at", "try again")


def page_scan() -> Check:
    """The PAGEMAP_SCAN call, with which a dump finds used pages faster."""
    name = "PAGEMAP_SCAN"
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        question = bytearray(struct.pack("12Q", 96, 0, start, start + mmap.PAGESIZE, 0, 0, 0, 0, 0, 0, 0, 0))
        try:
            with open("/proc/self/pagemap", "rb") as pagemap:
                fcntl.ioctl(pagemap, PAGEMAP_SCAN, question)
        except OSError:
            detail = "absent: dumps of sparse memory are slower"
            return Check(name, False, detail, "Linux 6.7 or later has it", required=False)
        return Check(name, True, "present", required=False)


def soft_dirty() -> Check:
    """Soft-dirty tracking, with which a second dump could save only what has changed."""
    name = "soft-dirty"
    try:
        tracked = _soft_dirty_works()
    except OSError:
        tracked = False
    if tracked:
        return Check(name, True, "present", required=False)
    return Check(
        name,
        False,
        "absent: every dump saves all memory",
        "nothing to do; a kernel with CONFIG_MEM_SOFT_DIRTY=y has it",
        required=False,
    )


def _soft_dirty_works() -> bool:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        Path("/proc/self/clear_refs").write_text("4")
        before = _page_entry(address)
        page[0] = 2
        return not before & SOFT_DIRTY and bool(_page_entry(address) & SOFT_DIRTY)


def _page_entry(address: int) -> int:
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        return int.from_bytes(pagemap.read(8), "little")


# --- CRIU and tools -----------------------------------------------------------------------------------------------


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def _on_path() -> provision.CriuTool | None:
    path = _which("criu")
    version = provision.version_of([path]) if path else None
    if path is None or version is None:
        return None
    return provision.CriuTool((path,), version, None, None, f"found at {path}")


def criu_version(tool: provision.CriuTool | None) -> Check:
    """A CRIU that is new enough for this kernel."""
    remedy = "run `ergo setup`"
    if tool is None:
        return Check("CRIU", False, "there is none", remedy)
    enough = provision.new_enough(tool.version)
    fate = "" if enough else f", too old for kernel {platform.release()}: it cannot save sockets"
    return Check("CRIU", enough, f"{tool.version} ({tool.origin}){fate}", "" if enough else remedy)


def criu_self_test(tool: provision.CriuTool | None) -> Check:
    """A real dump and restore of a tiny process."""
    name = "CRIU self-test"
    if tool is None:
        return Check(name, None, "there is no CRIU to test", "run `ergo setup`")
    trouble = self_test.run(tool.argv_prefix)
    if trouble is None:
        return Check(name, True, "a process was saved, ended and brought back")
    return Check(name, False, trouble, "mend what is marked above, or run `ergo setup` to get another CRIU")


def tools() -> Check:
    """The programs of the system that are called at a freeze, a thaw or a start."""
    lacking = [name for name in TOOLS if _which(name) is None]
    if not lacking:
        return Check("tools", True, ", ".join(TOOLS))
    packages = " ".join(dict.fromkeys(TOOLS[name] for name in lacking))
    return Check("tools", False, f"missing: {', '.join(lacking)}", f"apt-get install {packages}")


def shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Room for images in memory; on disk they are slower."""
    name = "shared memory"
    try:
        room = shutil.disk_usage(folder)
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror}", f"mount a tmpfs at {folder}")
    detail = f"{room.free / 1e9:.1f} GB of {room.total / 1e9:.1f} GB free in {folder}"
    if room.free >= SHM_BYTES_MIN:
        return Check(name, True, detail)
    return Check(
        name,
        False,
        f"{detail}: images will go to disk, which is slower",
        f"free some, or make it larger: mount -o remount,size=50% {folder} (docker: --shm-size)",
        required=False,
    )


LINKS: Final = (
    "ip link add ergo0 type bridge && ip link add ergo1 type veth peer name ergo2 && ip link set ergo1 master ergo0"
)
NAT_RULES: Final = (
    "add table ip t; add chain ip t c { type nat hook postrouting priority 100 ; }; add rule ip t c masquerade"
)


def outside_network(tool: provision.CriuTool | None) -> Check:
    """Whether jobs in a network of their own can reach the outside: all that takes, tried in a scratch network."""
    name = "jobs' network"
    trouble = _tried("unshare", "--net", "sh", "-c", LINKS)
    if trouble is not None:
        return Check(
            name, False, f"no bridge or veth: {trouble}", "use a kernel that has them; until then --network host"
        )
    system_nft = _which("nft")
    nft = (tool.nft if tool else None) or ((system_nft,) if system_nft else None)
    if nft is None:
        detail = "own addresses, but no nft: jobs reach no outside"
        remedy = "apt-get install nftables" if tool else "run `ergo setup`"
        return Check(name, False, detail, remedy, required=False)
    trouble = _tried("unshare", "--net", *nft, NAT_RULES)
    if trouble is None:
        return Check(name, True, "own address per job, NAT to the outside")
    return Check(
        name,
        False,
        f"own addresses, but no NAT to the outside: {trouble}",
        "use a kernel with nf_tables NAT, or run jobs that need the outside with --network host",
        required=False,
    )


def _tried(*argv: str) -> str | None:
    """None if the command succeeds; else its last complaint."""
    try:
        said = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TRY_S_MAX)
    except FileNotFoundError:
        return f"there is no {argv[0]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if said.returncode == 0:
        return None
    return (said.stderr.strip().splitlines() or [f"{argv[0]} ended with status {said.returncode}"])[-1]


# --- CUDA ---------------------------------------------------------------------------------------------------------

_CUDA_PROBE: Final = """
import ctypes, os
cuda = ctypes.CDLL("libcuda.so.1")
version, count, state = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(-1)
code = cuda.cuInit(0)
cuda.cuDriverGetVersion(ctypes.byref(version))
cuda.cuDeviceGetCount(ctypes.byref(count))
get_state = getattr(cuda, "cuCheckpointProcessGetState", None)
answer = -1 if get_state is None else get_state(os.getpid(), ctypes.byref(state))
print(code, version.value, count.value, answer, state.value)
"""

_GPU_JOBS: Final = "a job that has a GPU open runs, but cannot be frozen"


def cuda() -> tuple[Check, Check]:
    """The NVIDIA driver, and whether its checkpoint calls answer. Asked in a process of its own: a driver can hang."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _cuda_checks("absent", [])
    return _cuda_checks(*_cuda_answer(_ask_cuda))


def _ask_cuda() -> str:
    argv = [sys.executable, "-I", "-S", "-c", _CUDA_PROBE]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=CUDA_S_MAX).stdout


def _cuda_answer(ask: Callable[[], str]) -> tuple[str, list[int]]:
    """("answered" | "silent", [init code, version, devices, checkpoint code, state])."""
    try:
        words = ask().split()
    except (OSError, subprocess.TimeoutExpired):
        return "silent", []
    return ("answered", [int(word) for word in words]) if len(words) == 5 else ("silent", [])


def _cuda_checks(how: str, numbers: list[int]) -> tuple[Check, Check]:
    driver, interface = "CUDA driver", "CUDA checkpoint API"
    if how == "absent":
        return (
            Check(driver, None, "none here: jobs compute on CPU devices", required=False),
            Check(interface, None, "no CUDA driver", required=False),
        )
    if how == "silent" or numbers[0] != 0:
        code = f"cuInit gives {numbers[0]}" if numbers else "it does not answer"
        return (
            Check(driver, False, f"present, but {code}", "see what `nvidia-smi` says", required=False),
            Check(interface, None, "the driver does not answer", required=False),
        )
    _, version, devices, answer, _ = numbers
    said = f"CUDA {version // 1000}.{version % 1000 // 10}, {devices} device{'s' if devices != 1 else ''}"
    first = Check(driver, True, said, required=False)
    if answer == 0:
        return first, Check(interface, True, f"answers, and is not used yet: {_GPU_JOBS}", required=False)
    why = "not in this driver" if answer == -1 else f"refuses with error {answer}"
    return first, Check(interface, False, why, f"nothing to do, no driver helps yet: {_GPU_JOBS}", required=False)
