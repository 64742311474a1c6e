"""Ranks' output onto the screen: which rank said it, safely, in whole lines where several speak at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, Protocol

from ergosphere.cli.safe import RESET, SafeText

LINE_CHARS_MAX: Final = 1 << 16  # a line without end is shown in pieces of this size

Stream = Literal["out", "err"]


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """One stream of one rank."""

    rank: int
    stream: Stream


class Printer(Protocol):
    """Takes a stream's bytes as they come and shows them; `close` shows what was held back."""

    def feed(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class RawPrinter:
    """The very bytes."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def feed(self, data: bytes) -> None:
        """Write and flush."""
        self._out.write(data)
        self._out.flush()

    def close(self) -> None:
        """Nothing is held back."""


class PlainPrinter:
    """One rank alone: safe text as it comes, unfinished lines included."""

    def __init__(self, out: BinaryIO, encoding: str, colours: bool) -> None:
        self._out = out
        self._encoding = encoding
        self._safe = SafeText(colours)

    def feed(self, data: bytes) -> None:
        """Show what is complete of `data`."""
        self._write(self._safe.feed(data))

    def close(self) -> None:
        """Show the rest and switch colours off."""
        self._write(self._safe.feed(b"", last=True) + (RESET if self._safe.coloured else ""))

    def _write(self, text: str) -> None:
        self._out.write(text.encode(self._encoding, "backslashreplace"))
        self._out.flush()


class LinePrinter:
    """One rank among several: whole lines behind a prefix. A line that was drawn over (`\\r`) shows its last state."""

    def __init__(self, out: BinaryIO, encoding: str, colours: bool, prefix: str) -> None:
        self._out = out
        self._encoding = encoding
        self._prefix = prefix
        self._safe = SafeText(colours)
        self._line = ""

    def feed(self, data: bytes) -> None:
        """Show the lines that `data` completes."""
        *whole, self._line = (self._line + self._safe.feed(data)).split("\n")
        while len(self._line) > LINE_CHARS_MAX:
            whole.append(self._line[:LINE_CHARS_MAX])
            self._line = self._line[LINE_CHARS_MAX:]
        self._write(whole)

    def close(self) -> None:
        """Show an unfinished last line."""
        rest = self._line + self._safe.feed(b"", last=True)
        self._line = ""
        self._write([rest] if rest else [])

    def _write(self, lines: list[str]) -> None:
        text = "".join(self._shown(line) for line in lines)
        self._out.write(text.encode(self._encoding, "backslashreplace"))
        self._out.flush()

    def _shown(self, line: str) -> str:
        last_state = line.rstrip("\r").rpartition("\r")[2]
        reset = RESET if "\x1b[" in line else ""
        return f"{self._prefix}{last_state}{reset}\n"


def prefix_of(rank: int, ranks: int, colours: bool) -> str:
    """`[rank 2] `, dim on a terminal, as wide for every rank of the job."""
    width = len(str(ranks - 1))
    text = f"[rank {rank:>{width}}] "
    return f"\x1b[2m{text}\x1b[0m" if colours else text
