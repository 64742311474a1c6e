"""What a snapshot needs of a node, and whether the node has it; whose rights images ask for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ergosphere.agent import identity, requirements
from ergosphere.agent.identity import Identity
from ergosphere.snapshots.manifest import CellPart, MappedFile
from ergosphere.snapshots.tree import TreeSum


def described(path: Path) -> MappedFile:
    status = path.stat()
    return MappedFile(str(path), status.st_size, status.st_mtime_ns)


def part(mapped: tuple[MappedFile, ...], **told: object) -> CellPart:
    work = TreeSum("0" * 64, 0, 0)
    return CellPart(0, "n", "10.0.0.2", "jobnet", (0,), (), work, None, (), mapped, {requirements.NEEDS: told})


def test_a_build_id_is_read_as_binutils_reads_it() -> None:
    program = Path(os.path.realpath("/bin/sh"))
    found = requirements.build_id(described(program))
    said = subprocess.run(["readelf", "-n", program], capture_output=True, text=True).stdout
    assert found and (not said or f"Build ID: {found}" in said)
    assert requirements.build_id(described(Path(__file__))) == ""


def test_a_file_is_the_same_by_size_and_time_or_by_its_build_id(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(Path(os.path.realpath("/bin/sh")).read_bytes())
    file = described(library)
    told = part((file,), builds={str(library): requirements.build_id(file)})
    assert requirements.differing(told) == ()
    os.utime(library, ns=(1, 1))
    assert requirements.differing(told) == (), "installed at another time, but the same build"
    assert requirements.differing(part((file,))) == (str(library),)
    library.write_bytes(library.read_bytes() + b"x")
    assert requirements.differing(told) == (str(library),)
    library.unlink()
    assert requirements.differing(told) == (str(library),)


def test_an_older_kernel_or_another_machine_is_named() -> None:
    assert requirements._kernel({"kernel": platform.release()}) == ""
    assert requirements._kernel({"kernel": "2.6.32"}) == ""
    assert "999.1" in requirements._kernel({"kernel": "999.1.0"})
    assert "riscv64" in requirements._machine({"machine": "riscv64"})


def test_a_snapshot_thaws_on_its_own_type_of_device_only() -> None:
    assert requirements._device({}) == "" and requirements._device({"device": "cpu", "driver": "580.65.06"}) == ""
    assert "type cuda" in requirements._device({"device": "cuda", "driver": "580.65.06"})


def test_images_may_ask_for_no_more_than_is_named() -> None:
    plain = Identity(frozenset({1000}), frozenset({1000}), 0)
    assert plain <= plain and identity.NOBODY <= plain
    assert not replace(plain, uids=frozenset({0, 1000})) <= plain
    assert not replace(plain, caps=1 << 21) <= plain
    assert identity.from_json(identity.to_json(plain | replace(plain, caps=5))) == replace(plain, caps=5)


def test_a_process_is_who_its_status_says() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        found = identity.of_processes([child.pid])
        assert os.getuid() in found.uids and os.getgid() in found.gids
    finally:
        child.kill()
        child.wait()
    assert identity.of_processes([child.pid]) == identity.NOBODY


@pytest.mark.parametrize("text", ["4.2.1", "4.2", "6.18.0-rc1"])
def test_versions_are_compared_by_their_numbers(text: str) -> None:
    assert requirements._numbers(text) >= (4, 2)
