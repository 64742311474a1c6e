"""The job's copy of its working directory: what goes in, what is bound from its place instead, what is sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ergosphere.cli import asking
from ergosphere.cli.api import Client
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.safe import safe_line
from ergosphere.cli.screen import progress
from ergosphere.cli.words import bytes_text, plural
from ergosphere.wire.api import BLOB_BYTES_MAX
from ergosphere.wire.jobs import TreeRef
from ergosphere.wire.paths import is_text

if TYPE_CHECKING:
    from ergosphere.snapshots.tree import Tree
    from ergosphere.system import Clock

_BOUND_SHOWN_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class WorkCopy:
    """The scanned directory; nothing has been sent yet. `bound` are relative paths seen read-only from their place."""

    root: Path
    tree: Tree
    ref: TreeRef
    bound: tuple[str, ...]
    notes: tuple[str, ...]

    def in_words(self) -> str:
        """`copy of /x: 12 files, 34 kB; read-only from its place: .venv`."""
        text = f"copy of {self.root}: {plural(self.ref.files, 'file')}, {bytes_text(self.ref.bytes)}"
        if self.bound:
            more = ", …" if len(self.bound) > _BOUND_SHOWN_MAX else ""
            text += f"; read-only from their place: {', '.join(self.bound[:_BOUND_SHOWN_MAX])}{more}"
        return text


def scan_directory(root: Path, home: Path) -> WorkCopy:
    """What a job gets of `root`; the service's own `home` never. Raises CliError when it is too big or unreadable."""
    from ergosphere.snapshots import ignore
    from ergosphere.snapshots.errors import SnapshotError
    from ergosphere.snapshots.scan import Limits, scan

    hidden = home.relative_to(root).as_posix() if home.is_relative_to(root) else None
    try:
        rules = ignore.read(root)
        limits = Limits(file_bytes_max=BLOB_BYTES_MAX)
        scanned = scan(root, lambda path, is_dir: path == hidden or rules.excluded(path, is_dir), limits)
    except SnapshotError as fault:
        raise CliError(fault.cause, fault.remedy, ExitCode.REFUSED) from None
    summary = scanned.tree.summary()
    ref = TreeRef(digest=summary.digest, files=summary.files, bytes=summary.bytes)
    bound = tuple(path for path in rules.bound if path != hidden and is_text(path))
    notes = (*rules.notes, *map(_unseen, rules.bound), *scanned.notes)
    return WorkCopy(root, scanned.tree, ref, bound, tuple(filter(None, map(safe_line, notes))))


def _unseen(bound: str) -> str:
    """A note about an ignored path that cannot be named to the nodes; "" when it can."""
    return "" if is_text(bound) else f"{bound} is not visible to the job: its name is not UTF-8"


def send(client: Client, copy: WorkCopy, clock: Clock) -> int:
    """Upload what the store lacks; how many bytes that was. Raises CliError when a file changes meanwhile."""
    from ergosphere.snapshots.errors import SnapshotError
    from ergosphere.snapshots.scan import upload

    wanted = [*copy.tree.digests(), copy.ref.digest]
    missing = asking.missing_blobs(client, wanted)
    if not missing:
        return 0
    sizes = {entry.digest: entry.size for entry in copy.tree.entries if entry.digest}
    total = sum(sizes.get(digest, 0) for digest in missing)
    sent = 0
    with progress("sending the working directory", clock) as advance:

        def put(digest: str, content: bytes | Path) -> None:
            nonlocal sent
            client.put_blob(digest, content)
            sent += sizes.get(digest, 0)
            advance(sent, total, f"{bytes_text(sent)} of {bytes_text(total)}")

        try:
            upload(copy.tree, copy.root, lambda digest: digest not in missing, put)
        except SnapshotError as fault:
            raise CliError(fault.cause, fault.remedy, ExitCode.REFUSED) from None
        if copy.ref.digest in missing:
            client.put_blob(copy.ref.digest, copy.tree.document)
    return sent
