"""What a run left behind: exit code, every rank's output, every file of its working directory. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ergosphere.cli.printing import Source
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.tree import Entry, Kind, Tree, compare

Content = Callable[[Entry], bytes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run's results. `content` reads a file of `tree`; `span_s` is how long the run took, in seconds."""

    exit_code: int
    streams: Mapping[Source, bytes]
    tree: Tree
    content: Content
    span_s: float

    @property
    def main_source(self) -> Source:
        """The stream that says how far the program has come: the longest one, standard output before standard error."""
        return max(self.streams, key=lambda s: (len(self.streams[s]) if s.stream == "out" else 0, -s.rank))

    def digest(self, submitted: Tree) -> str:
        """One digest over all of it: exit code, every stream, every file that is not as it was submitted."""
        changed = [self.tree.by_path.get(d.path) for d in compare(submitted, self.tree)]
        parts: list[bytes] = [str(self.exit_code).encode()]
        parts += [digest_bytes(self.streams[source]).encode() for source in sorted(self.streams)]
        parts += [
            f"{e.path} {e.kind} {e.mode:o} {e.digest} {e.target}".encode("utf-8", "surrogateescape")
            for e in changed
            if e
        ]
        return digest_bytes(b"\n".join(parts))

    def file(self, entry: Entry) -> bytes:
        """What a file holds; of a link, where it leads."""
        if entry.kind is Kind.HARDLINK:
            return self.file(self.tree.by_path[entry.target])
        if entry.kind is not Kind.FILE:
            return entry.target.encode("utf-8", "surrogateescape")
        return self.content(entry) if entry.size else b""
