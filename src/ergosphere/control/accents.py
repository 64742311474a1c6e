"""Agents of other versions than the server's: which they are, and who is not understood. In memory only."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ergosphere.control.ledger.change import SERVER
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.wire import versions


@dataclass(slots=True)
class Accents:
    """What is said of it in `ergo nodes` and in the history. Thread-safe."""

    ledger: Ledger
    _versions: dict[str, str] = field(default_factory=dict)  # of each node's agent; "": it has not told
    _puzzles: dict[tuple[str, str], str] = field(default_factory=dict)  # node and route → what is not understood there
    _written: set[tuple[str, str, str]] = field(default_factory=set)  # node, route and version
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def heard(self, node: str, route: str, theirs: str) -> None:
        """What an agent said by this route was understood."""
        with self._lock:
            self._versions[node] = theirs
            self._puzzles.pop((node, route), None)

    def puzzled(self, node: str, route: str, theirs: str, faults: str) -> str:
        """An agent says what this server does not understand: that in words, kept, and written down once."""
        words = (
            f"what the agent of {node or 'some node'} ({versions.named(theirs)}) says is not understood by this server "
            f"(version {versions.VERSION}): {faults}"
        )
        with self._lock:
            self._puzzles[node, route] = words
            is_new = (node, route, theirs) not in self._written
            self._written.add((node, route, theirs))
        if is_new:
            with self.ledger.change() as change:
                change.note(None, SERVER, "not-understood", f"{words}; {versions.remedy(node)}")
        return words

    def detail(self, node: str) -> str:
        """What to know of a node's agent; "" where it is like the server."""
        with self._lock:
            theirs = self._versions.get(node, "")
            puzzle = next((words for (whose, _), words in self._puzzles.items() if whose == node), "")
        if puzzle:
            return f"{puzzle}; {versions.remedy(node)}"
        if theirs in ("", versions.VERSION):
            return ""
        return f"its agent is version {theirs}, the server {versions.VERSION}"
