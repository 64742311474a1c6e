"""Gets a CRIU that works here: the machine's own if it is new enough, else Debian's in a private root.

Nothing outside the given folder is changed. Packages come from the mirror the machine's own apt uses, and apt checks
their signatures. Standard library only: `make` runs this before anything is installed.

    python -m ergosphere.agent.provision FOLDER
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ergosphere.agent import apt_fetch, apt_sources, package_cache, self_test
from ergosphere.agent.apt_fetch import INSTALL_IT, ProvisionError

SUITES: Final = ("sid", "trixie")
WANTED: Final = ("criu", "nftables")
VERSION_MIN: Final = (4, 2)
VERSION_MIN_OLD_KERNEL: Final = (4, 1)
KERNEL_NEEDS_42: Final = (6, 16)  # SO_PASSCRED of inet sockets is refused from here on; CRIU 4.1 cannot dump them
ROOM_BYTES: Final = 400 << 20  # lists 90 MB, packages 25 MB, unpacked 75 MB were seen
VERSION_S_MAX: Final = 10.0
MARKER: Final = "current.json"


Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CriuTool:
    """A CRIU that passed the self-test: `argv_prefix` comes before its arguments, `nft` likewise before nft's.

    `private_root` is the folder its files lie in, None for the machine's own. `origin` says where it came from.
    """

    argv_prefix: tuple[str, ...]
    version: str
    nft: tuple[str, ...] | None
    private_root: Path | None
    origin: str


def provision(
    home: Path, progress: Progress = lambda text: None, *, prefer_path: bool = True, cache: Path | None = None
) -> CriuTool:
    """A working CRIU, from the PATH or provisioned into `home`; quick when that was done before.

    With `cache` (see `package_cache`) packages that another home fetched are taken from there, and others kept there.
    Raises ProvisionError. Several callers at once wait for each other.
    """
    if os.geteuid() != 0:
        raise ProvisionError("this needs root: CRIU takes processes apart", "run it with sudo")
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(home, progress):
        known = _remembered(home)
        if known is not None:
            return known
        tool = (_from_path(progress) if prefer_path else None) or _from_debian(home, progress, cache)
        _remember(home, tool)
        _sweep(home, tool)
        return tool


def find(home: Path) -> CriuTool | None:
    """What `provision` has left in `home`, if it still answers; never downloads, never waits."""
    return _remembered(home)


def version_of(prefix: Sequence[str]) -> str | None:
    """What `criu --version` says ("4.2.1"), or None if it does not run."""
    try:
        said = subprocess.run([*prefix, "--version"], capture_output=True, text=True, timeout=VERSION_S_MAX)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"Version: (\d+(?:\.\d+)*)", said.stdout)
    return match[1] if said.returncode == 0 and match else None


def new_enough(version: str, kernel: str | None = None) -> bool:
    """True if this CRIU can save sockets on this kernel (a release like "6.18.44-x"; None: the running one)."""
    old_kernel = _numbers(kernel or platform.release()) < KERNEL_NEEDS_42
    return _numbers(version) >= (VERSION_MIN_OLD_KERNEL if old_kernel else VERSION_MIN)


def _numbers(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


# --- what is there already --------------------------------------------------------------------------------------


def _remembered(home: Path) -> CriuTool | None:
    try:
        kept = json.loads((home / MARKER).read_text())
        root = kept["private_root"]
        tool = CriuTool(
            tuple(kept["argv_prefix"]),
            kept["version"],
            tuple(kept["nft"]) if kept["nft"] else None,
            Path(root) if root else None,
            kept["origin"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tool if version_of(tool.argv_prefix) == tool.version and new_enough(tool.version) else None


def _remember(home: Path, tool: CriuTool) -> None:
    fresh = home / f"{MARKER}.new"
    kept = asdict(tool) | {"private_root": str(tool.private_root) if tool.private_root else None}
    fresh.write_text(json.dumps(kept, indent=1) + "\n")
    fresh.replace(home / MARKER)


def _sweep(home: Path, tool: CriuTool) -> None:
    """Removes roots and half-made folders of earlier times; a running CRIU keeps its open files."""
    for path in home.iterdir():
        if path.is_dir() and path != tool.private_root and path.name.startswith(("root-", "build-")):
            shutil.rmtree(path, ignore_errors=True)


def _from_path(progress: Progress) -> CriuTool | None:
    path = _which("criu")
    version = version_of([path]) if path else None
    if path is None or version is None:
        return None
    if not new_enough(version):
        progress(f"CRIU {version} at {path} is too old for kernel {platform.release()}: looking for a newer one")
        return None
    progress(f"testing CRIU {version} at {path}")
    trouble = self_test.run([path])
    if trouble is not None:
        progress(f"CRIU {version} at {path} fails its test ({trouble}): looking for another one")
        return None
    nft = _which("nft")
    return CriuTool((path,), version, (nft,) if nft else None, None, f"found at {path}")


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


@contextmanager
def _locked(home: Path, progress: Progress) -> Iterator[None]:
    with (home / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another set-up is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- Debian's, in a private root ---------------------------------------------------------------------------------


def _from_debian(home: Path, progress: Progress, cache: Path | None) -> CriuTool:
    _check_room(home)
    kept = _from_cache(home, cache, progress) if cache is not None else None
    if kept is not None:
        return kept
    mirrors = _mirrors()
    troubles: list[ProvisionError] = []
    for suite in SUITES:
        for mirror in mirrors:
            try:
                return _from_suite(home, mirror, suite, progress, cache)
            except ProvisionError as error:
                progress(f"Debian {suite}: {error.cause}")
                troubles.append(error)
    raise troubles[0]


def _mirrors() -> tuple[apt_sources.Source, ...]:
    lacking = [tool for tool in ("apt-get", "dpkg") if _which(tool) is None]
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    if lacking or release.get("ID") != "debian":
        name = release.get("PRETTY_NAME", "this system")
        raise ProvisionError(
            f"there is no CRIU {VERSION_MIN[0]}.{VERSION_MIN[1]} or later on the PATH, and on {name} it cannot be "
            "fetched (that works on Debian only)",
            "install CRIU 4.2 or later with your package manager or from source, then try again",
        )
    mirrors = apt_sources.debian_mirrors(release.get("VERSION_CODENAME", ""))
    if not mirrors:
        raise ProvisionError(
            "apt on this machine knows no Debian mirror",
            "add one with component main under /etc/apt/sources.list.d, or install CRIU 4.2 or later yourself",
        )
    return mirrors


def _check_room(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < ROOM_BYTES:
        raise ProvisionError(
            f"{home} has {free >> 20} MB free and the set-up needs {ROOM_BYTES >> 20} MB for a moment",
            "free some space, or choose another folder",
        )


def _from_cache(home: Path, cache: Path, progress: Progress) -> CriuTool | None:
    """With what another home of this machine fetched; None where nothing is kept, or it does not do."""
    with TemporaryDirectory(prefix="build-", dir=home) as folder:
        build = Path(folder)
        try:
            kept = package_cache.recall(cache, build / "packages")
            if kept is None:
                return None
            progress(f"taking the packages that were fetched before from {cache}")
            return _built(home, build, kept.packages, kept.suite, progress)
        except (package_cache.Distrusted, OSError, ProvisionError) as error:
            progress(f"the packages in {cache} are not used: {error}")
            return None


def _from_suite(home: Path, mirror: apt_sources.Source, suite: str, progress: Progress, cache: Path | None) -> CriuTool:
    with TemporaryDirectory(prefix="build-", dir=home) as folder:
        build = Path(folder)
        packages = apt_fetch.fetch(build, mirror, suite, WANTED, progress)
        tool = _built(home, build, packages, suite, progress)
        if cache is not None:
            _keep(cache, suite, packages, progress)
        return tool


def _keep(cache: Path, suite: str, packages: Sequence[Path], progress: Progress) -> None:
    try:
        package_cache.keep(cache, suite, packages)
    except (package_cache.Distrusted, OSError) as error:
        progress(f"the packages are not kept for other homes: {error}")


def _built(home: Path, build: Path, packages: Sequence[Path], suite: str, progress: Progress) -> CriuTool:
    """Builds aside, tests there, and puts the finished root in place by one rename."""
    progress(f"unpacking {len(packages)} packages")
    root = build / "root"
    apt_fetch.unpack(packages, root)
    tool = _tool_in(root, suite)
    if not new_enough(tool.version):
        raise ProvisionError(
            f"CRIU {tool.version} from Debian {suite} is too old for kernel {platform.release()}",
            INSTALL_IT,
        )
    progress(f"testing CRIU {tool.version} from Debian {suite}")
    trouble = self_test.run(tool.argv_prefix)
    if trouble is not None:
        raise ProvisionError(
            f"CRIU {tool.version} from Debian {suite} fails its test: {trouble}",
            "`ergo check` says what is missing",
        )
    place = _free_place(home, tool.version)
    root.chmod(0o755)
    root.rename(place)
    return _tool_in(place, suite)


def _free_place(home: Path, version: str) -> Path:
    place, number = home / f"root-{version}", 1
    while place.exists():
        number += 1
        place = home / f"root-{version}-{number}"
    return place


def _tool_in(root: Path, suite: str) -> CriuTool:
    """The CRIU of an unpacked root, run through that root's own loader and libraries."""
    prefix = (*_loader(root), str(_program(root, "criu")))
    version = version_of(prefix)
    if version is None:
        raise ProvisionError(
            f"the CRIU of Debian {suite} does not start on this machine",
            "is this another architecture or a very old kernel? install CRIU 4.2 or later yourself",
        )
    with suppress(ProvisionError):
        return CriuTool(prefix, version, (*_loader(root), str(_program(root, "nft"))), root, f"Debian {suite}")
    return CriuTool(prefix, version, None, root, f"Debian {suite}")


def _program(root: Path, name: str) -> Path:
    for folder in ("usr/sbin", "sbin", "usr/bin", "bin"):
        if (root / folder / name).is_file():
            return root / folder / name
    raise ProvisionError(f"the packages hold no {name}", INSTALL_IT)


def _loader(root: Path) -> tuple[str, ...]:
    """The dynamic loader with the library path, as the words before a program."""
    for pattern in ("usr/lib/*-linux-gnu*/ld-linux*.so*", "lib/*-linux-gnu*/ld-linux*.so*"):
        for loader in sorted(root.glob(pattern)):
            libraries = [str(root / "usr/lib" / loader.parent.name), str(root / "lib" / loader.parent.name)]
            return str(loader), "--library-path", ":".join(libraries)
    raise ProvisionError("the packages hold no loader", INSTALL_IT)


def _print_step(text: str) -> None:
    print(f"  {text}", flush=True)


def main() -> int:
    """Command line: provisions and says in one line what there is now."""
    parser = argparse.ArgumentParser(prog="provision", description="Gets a CRIU that works on this machine.")
    parser.add_argument("folder", type=Path, help="where a private CRIU is kept")
    parser.add_argument("--private", action="store_true", help="do not use the machine's own CRIU")
    arguments = parser.parse_args()
    try:
        cache = package_cache.folder()
        tool = provision(arguments.folder.absolute(), _print_step, prefer_path=not arguments.private, cache=cache)
    except ProvisionError as error:
        print(f"error: {error.cause}\n  {error.remedy}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}\n  choose a folder that can be written", file=sys.stderr)
        return 1
    print(f"CRIU {tool.version} ({tool.origin}) works here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
