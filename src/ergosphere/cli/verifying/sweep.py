"""The end of a private fleet: its processes, groups, networks, memory and folder go, in whatever state."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from ergosphere import system
from ergosphere.agent import cgroups, network, provision

_LINKS = Path("/sys/class/net")
_ANY_SUBNET = IPv4Network("10.0.0.0/16")  # removing a fleet's network does not look at it


def sweep(home: Path, *, keep_folder: bool = False) -> None:
    """Remove every trace of the fleet of `home`. Its server must have ended: it would start agents again."""
    group = cgroups.freezer(f"ergo-{system.fleet_id(home)}", cgroups.choose(system.freezer_version()))
    for _ in range(2):  # an agent that was just starting joins its group late
        _end_strays(home)
        group.kill()
    forget_memory(system.memory_folder(home))
    _remove_network(home)
    group.remove()
    if not keep_folder:
        shutil.rmtree(home, ignore_errors=True)


def forget_memory(folder: Path) -> None:
    """Remove a folder of a fleet in memory, with the networks that are bound below it."""
    for target in reversed(_mounted_below(folder)):
        subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _mounted_below(folder: Path) -> list[str]:
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [target for target in targets if target.startswith(f"{folder}/")]


def _end_strays(home: Path) -> None:
    """Agents and servers of this home, wherever they are: the home's name is in their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _is_ours(entry, home):
            with suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)


def _is_ours(entry: Path, home: Path) -> bool:
    with suppress(OSError):
        words = (entry / "cmdline").read_bytes().split(b"\0")
        programs = (b"ergosphere.control.server", b"ergosphere.agent.main")
        return os.fsencode(home) in words and any(program in words for program in programs)
    return False


def _remove_network(home: Path) -> None:
    tool = provision.find(home / "criu")
    fleet = network.Fleet(system.fleet_id(home), _ANY_SUBNET, tool.nft if tool else None)
    with suppress(FileNotFoundError):
        for link in (_LINKS / fleet.bridge / "brif").iterdir():
            subprocess.run(["ip", "link", "del", link.name], check=False, capture_output=True)
    network.remove_fleet(fleet)
