"""Fetches Debian packages with all they need into a private folder, by the machine's own apt. Standard library only.

Nothing of the system's apt is read but its transport settings (proxies), and nothing of it is written. apt verifies the
signatures; nothing here can switch that off.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ergosphere.agent.apt_sources import Source

PRINT_S_MAX: Final = 10.0
UPDATE_S_MAX: Final = 300.0
DOWNLOAD_S_MAX: Final = 600.0
UNPACK_S_MAX: Final = 120.0
FREE_SPACE: Final = "free some space, then try again"
INSTALL_IT: Final = "install CRIU 4.2 or later yourself, then try again"


class ProvisionError(Exception):
    """No CRIU that works could be had; `cause` and `remedy` are plain sentences, the message is both."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause = cause
        self.remedy = remedy


def fetch(
    build: Path, mirror: Source, suite: str, wanted: Sequence[str], progress: Callable[[str], None]
) -> list[Path]:
    """Downloads `wanted` and their dependencies, libc included, into the empty folder `build`; the package files."""
    for name in ("parts", "preferences", "state/lists/partial", "cache/archives/partial"):
        (build / name).mkdir(parents=True)
    (build / "parts" / "private.sources").write_text(mirror.stanza(suite))
    (build / "status").touch()  # "nothing is installed": apt then fetches all that CRIU needs, libc included
    progress(f"reading the package lists of Debian {suite}")
    _apt(build, ["update"], UPDATE_S_MAX)
    progress(f"fetching {' and '.join(wanted)} with their libraries")
    _apt(build, ["install", "-y", "--download-only", *wanted], DOWNLOAD_S_MAX)
    return sorted((build / "cache" / "archives").glob("*.deb"))


def _apt_options(build: Path) -> list[str]:
    """Everything apt would read or write, pointed into `build`; proxies and other transport settings stay."""
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, timeout=PRINT_S_MAX
    ).stdout.strip()
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": f"{build}/parts",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": f"{build}/preferences",
        "Dir::State": f"{build}/state",
        "Dir::State::Lists": f"{build}/state/lists",
        "Dir::State::status": f"{build}/status",
        "Dir::Cache": f"{build}/cache",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Default-Release": "",
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "root",
        "APT::Get::AllowUnauthenticated": "0",
        "Acquire::AllowInsecureRepositories": "0",
        "Acquire::AllowDowngradeToInsecureRepositories": "0",
        "Acquire::Check-Valid-Until": "true",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
        "Debug::NoLocking": "1",
        "DPkg::Pre-Install-Pkgs::": "",
        "APT::Update::Post-Invoke::": "",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _apt(build: Path, arguments: list[str], timeout_s: float) -> None:
    argv = ["apt-get", "-q", *_apt_options(build), *arguments]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ProvisionError(
            f"the Debian mirror did not deliver within {timeout_s:.0f} s", "check the network and try again"
        ) from error
    complaints = said.stdout + said.stderr
    if said.returncode != 0 or re.search(r"^(E|Err|W: GPG error|W: Failed to fetch)", complaints, re.MULTILINE):
        raise trouble(complaints)


_APT_TROUBLES: Final = (
    (
        r"NO_PUBKEY|Missing key|no public key|isn't signed by|is not signed|EXPKEYSIG|not available: ",
        "this machine's Debian keyring does not have the key the packages are signed with, so they were not fetched",
        "bring the keyring up to date with `apt-get update && apt-get install debian-archive-keyring`, then try again",
    ),
    (
        r"BADSIG|invalid signature|Hash Sum mismatch|were invalid",
        "what the Debian mirror sent does not match its signature, so it was not used",
        "try again later; if it stays so, something on the way (a proxy?) changes packages",
    ),
    (r"No space left on device|not enough free space|don't have enough", "the disk is full", FREE_SPACE),
    (
        r"resolv|Could not connect|Unable to connect|timed out|Network is unreachable|Connection (refused|failed)",
        "the Debian mirror of this machine's apt cannot be reached",
        "check the network (`apt-get update` must work), then try again",
    ),
    (r"404|does not have a Release file|Unable to locate package", "the Debian mirror lacks it", INSTALL_IT),
)


def trouble(complaints: str) -> ProvisionError:
    """What apt complains of, in plain words."""
    for pattern, cause, remedy in _APT_TROUBLES:
        if re.search(pattern, complaints):
            return ProvisionError(cause, remedy)
    lines = [line for line in complaints.splitlines() if line.startswith(("E:", "W:", "Err"))]
    return ProvisionError(f"apt says: {(lines or ['nothing'])[0]}", "`apt-get update` must work on this machine")


def unpack(packages: Sequence[Path], root: Path) -> None:
    """Unpacks packages into the new folder `root`, without running anything of theirs."""
    if not packages:
        raise ProvisionError("apt fetched no packages", "`apt-get update` must work on this machine")
    root.mkdir()
    for package in packages:
        try:
            argv = ["dpkg", "-x", str(package), str(root)]
            subprocess.run(argv, check=True, capture_output=True, text=True, timeout=UNPACK_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise ProvisionError(f"unpacking {package.name} took too long", "is the disk in trouble?") from error
        except subprocess.CalledProcessError as error:
            if "No space left" in error.stderr:
                raise ProvisionError("the disk is full", FREE_SPACE) from error
            raise ProvisionError(f"{package.name} cannot be unpacked: {error.stderr.strip()}", "try again") from error
