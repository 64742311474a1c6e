"""The only module that reads the clock, the dice or the environment; everyone else is handed what it needs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Time as it is handed around: `now` in seconds since the epoch, `monotonic` for durations."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Stopwatch(Protocol):
    """How long our own work takes: `monotonic` as it passes, `cpu` as this process computes, in seconds."""

    def monotonic(self) -> float: ...

    def cpu(self) -> float: ...


class SystemStopwatch:
    """The machine's."""

    def monotonic(self) -> float:
        return time.perf_counter()

    def cpu(self) -> float:
        return time.process_time()


def token() -> str:
    """A fresh secret of 256 bits."""
    return secrets.token_urlsafe(32)


def short_id() -> str:
    """Ten hex digits: enough for one home's orders and calls."""
    return secrets.token_hex(5)


def fresh_bytes(count: int) -> bytes:
    """Bytes nobody can guess and that never come again: salts and names of packs."""
    return secrets.token_bytes(count)


Dice = random.Random  # handed to whoever throws them
SEED_MAX = 1_000_000  # few digits, so that a seed can be typed again


def dice(seed: int) -> Dice:
    """Dice of their own: the same seed gives the same throws, in any process."""
    return Dice(seed)


def fresh_seed() -> int:
    """A seed nobody chose."""
    return secrets.randbelow(SEED_MAX)


def environment() -> dict[str, str]:
    """The environment of this process, as a copy."""
    return dict(os.environ)


STORE_VARIABLES = ("AWS_", "GOOGLE_", "AZURE_", "ERGO_KEY")  # how the names begin that an object store or a key needs


def store_key() -> tuple[str | None, Path | None]:
    """$ERGO_KEY (64 hex digits) and $ERGO_KEY_FILE: the keys under which snapshots are encrypted."""
    named = os.environ.get("ERGO_KEY_FILE")
    return os.environ.get("ERGO_KEY"), Path(named).absolute() if named else None


OBJECT_STORE_NAMES = (
    "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL "
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST GOOGLE_SERVICE_ACCOUNT GOOGLE_SERVICE_ACCOUNT_KEY GOOGLE_BUCKET "
    "AZURE_STORAGE_ACCOUNT_NAME AZURE_STORAGE_ACCOUNT_KEY AZURE_STORAGE_SAS_KEY AZURE_STORAGE_ENDPOINT"
)


def adopt(variables: Mapping[str, str]) -> None:
    """Take variables into this process's environment: of a helper that was started with a clean one."""
    os.environ.update(variables)


def object_store_settings() -> dict[str, str]:
    """Credentials and endpoints of buckets, under the names that the services' own tools use."""
    return {name: os.environ[name] for name in OBJECT_STORE_NAMES.split() if os.environ.get(name)}


def home() -> Path:
    """$ERGO_HOME, by default ~/.local/share/ergosphere."""
    named = os.environ.get("ERGO_HOME")
    return Path(named).absolute() if named else Path.home() / ".local/share/ergosphere"


def fleet_id(home: Path) -> str:
    """Eight hex digits that tell this home's cgroups, bridge and memory folder from another's."""
    return hashlib.blake2b(str(home.resolve()).encode(), digest_size=4).hexdigest()


def memory_folder(home: Path) -> Path:
    """Where fresh images and keeper sockets live: memory, of this home alone."""
    return Path("/dev/shm") / f"ergo-{fleet_id(home)}"


def freezer_version() -> int | None:
    """$ERGO_CGROUP (1 or 2) chooses the freezer's hierarchy; by default the best there is."""
    named = os.environ.get("ERGO_CGROUP")
    return int(named) if named in ("1", "2") else None


def machine_id() -> str:
    """This machine since its last boot: the same for all processes on it, and for no other machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def server_is_gone(home: Path) -> bool:
    """True when the server that this home's server.json names does not run: its port may be anybody's by now."""
    try:
        pid = int(json.loads((home / "server/server.json").read_text())["pid"])
        return b"ergosphere.control" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError, KeyError, TypeError):
        return True
    except OSError:
        return False  # we could not look, which says nothing about the server
