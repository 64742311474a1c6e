"""What a snapshot needs of the node that thaws it, and whether this node has it: CRIU, kernel, CPU, files.

Both halves live here, so that what is written at a freeze is what is asked for before a thaw.
"""

from __future__ import annotations

import base64
import platform
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ergosphere.agent import rootfs, written
from ergosphere.agent.criu import CriuError
from ergosphere.agent.node import Node
from ergosphere.snapshots.manifest import CellPart, MappedFile

NEEDS: Final = "needs"  # the key in a cell's facts
DEVICE_TYPE: Final = "cpu"  # of what this node's ranks compute on
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
NAMED_MAX: Final = 3  # files named in one cause
BUILDS_CACHED: Final = 4096
NOTES_BYTES_MAX: Final = 64 << 10
_PT_NOTE, _NT_BUILD_ID = 4, 3


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────


def needs(node: Node, mapped: Iterable[MappedFile]) -> dict[str, Any]:
    """For the facts of a cell that was frozen here. `builds`: path → build id, of mapped files that have one."""
    builds = {file.path: build for file in mapped if (build := build_id(file))}
    return {
        "criu": node.criu_version,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpuinfo": base64.b64encode(node.cpuinfo).decode(),
        "builds": builds,
        "device": DEVICE_TYPE,
        "driver": driver(),
    }


def driver() -> str:
    """The version of the NVIDIA driver that is loaded here; "" where there is none."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", NVIDIA_DRIVER.read_text())
    except OSError:
        return ""
    return found[0] if found else ""


def cpu_model() -> str:
    """What this CPU calls itself; "" where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return ""


def build_id(file: MappedFile) -> str:
    """The GNU build id of an ELF file as hex digits, "" for a file without one."""
    return _build_id(file.path, file.size, file.mtime_ns)


@lru_cache(maxsize=BUILDS_CACHED)
def _build_id(path: str, _size: int, _mtime_ns: int) -> str:
    try:
        with Path(path).open("rb") as file:
            head = file.read(64)
            if head[:5] != b"\x7fELF\x02":
                return ""
            offset, entry, count = _program_headers(head)
            file.seek(offset)
            table = file.read(entry * count)
            for at, size in _notes(table, entry, count):
                file.seek(at)
                found = _note(file.read(min(size, NOTES_BYTES_MAX)))
                if found:
                    return found
    except (OSError, struct.error):
        return ""
    return ""


def _program_headers(head: bytes) -> tuple[int, int, int]:
    """Where the table is, how long an entry, how many (ELF-64, little-endian)."""
    (offset,) = struct.unpack_from("<Q", head, 32)
    entry, count = struct.unpack_from("<HH", head, 54)
    return offset, entry, count


def _notes(table: bytes, entry: int, count: int) -> Iterator[tuple[int, int]]:
    for index in range(count):
        kind, _flags, at, _virtual, _physical, size = struct.unpack_from("<IIQQQQ", table, index * entry)
        if kind == _PT_NOTE:
            yield at, size


def _note(notes: bytes) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = at + 12
        body = name + (name_size + 3 & ~3)
        if kind == _NT_BUILD_ID and notes[name : name + 4] == b"GNU\0":
            return notes[body : body + size].hex()
        at = body + (size + 3 & ~3)
    return ""


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────


def weigh(node: Node, parts: Iterable[CellPart], spec: Mapping[str, Any]) -> str:
    """Why this node cannot thaw these cells of a snapshot, for its owner; "" if nothing stands against it.

    `spec`: the job's, as the manifest has it. Mounts of the old host that the job never asked for are not needed.
    """
    asked = [spec["workdir"], *(mount["path"] for mount in spec["mounts"])]
    for part in parts:
        told = part.facts.get(NEEDS, {})
        for cause in (
            _machine(told), _device(told), _criu(told, node), _kernel(told), _cpu(told, node), _files(part),
            _mounts(part, asked), written.obstacle(written.from_json(part.facts)),
        ):  # fmt: skip
            if cause:
                return cause
    return ""


def differing(part: CellPart) -> tuple[str, ...]:
    """Files that the ranks have in use and that are not the same here: by time stamp, or by build id where one is."""
    builds: dict[str, str] = part.facts.get(NEEDS, {}).get("builds", {})
    return tuple(file.path for file in part.mapped if not _is_same(file, builds.get(file.path, "")))


def _is_same(file: MappedFile, build: str) -> bool:
    try:
        here = Path(file.path).stat()
    except OSError:
        return False
    if here.st_size != file.size:
        return False
    if here.st_mtime_ns == file.mtime_ns:
        return True
    return bool(build) and _build_id(file.path, here.st_size, here.st_mtime_ns) == build


def _machine(told: dict[str, Any]) -> str:
    wanted = told.get("machine", platform.machine())
    return "" if wanted == platform.machine() else f"it was frozen on {wanted}, this is {platform.machine()}"


def _device(told: dict[str, Any]) -> str:
    wanted = told.get("device", DEVICE_TYPE)
    same = wanted == DEVICE_TYPE
    return "" if same else f"it computed on devices of type {wanted}, this node's are of type {DEVICE_TYPE}"


def _criu(told: dict[str, Any], node: Node) -> str:
    wanted, here = told.get("criu", ""), node.criu_version
    if wanted and here and _numbers(here) < _numbers(wanted):
        return f"its images are of CRIU {wanted}, which this node's CRIU {here} cannot be trusted to read"
    return ""


def _kernel(told: dict[str, Any]) -> str:
    wanted = told.get("kernel", "")
    if wanted and _numbers(platform.release())[:2] < _numbers(wanted)[:2]:
        return f"it was frozen on Linux {wanted}, this node runs the older {platform.release()}"
    return ""


def _cpu(told: dict[str, Any], node: Node) -> str:
    """CRIU's own judgement; asked only where the CPU does not say word for word the same."""
    image = base64.b64decode(told.get("cpuinfo", ""))
    if not image or image == node.cpuinfo:
        return ""
    with TemporaryDirectory(dir=node.place.memory) as folder:
        (Path(folder) / "cpuinfo.img").write_bytes(image)
        try:
            node.criu.cpuinfo_check(Path(folder))
        except CriuError as error:
            model = told.get("cpu") or "another CPU"
            return f"its CPU lacks something that {model} has, where the job was frozen ({error.cause})"
    return ""


def _files(part: CellPart) -> str:
    found = differing(part)
    if not found:
        return ""
    more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return f"files that the job has in use are not what they were: {', '.join(found[:NAMED_MAX])}{more}"


def _mounts(part: CellPart, asked: Sequence[str]) -> str:
    if "root" not in part.facts:
        return ""
    plan = rootfs.without_vanished(rootfs.plan_from_json(part.facts["root"]), asked)
    gone = [mount.source for mount in plan.binds if mount.source.startswith("/") and not Path(mount.source).exists()]
    return f"this node has no {gone[0]}, which the job needs" if gone else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
