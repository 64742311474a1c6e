"""A job's output made safe to show: what it wrote may not drive the terminal. Pure; no I/O.

Logs are stored as they are; only what is shown passes through here, and `--raw` goes around it.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

_PENDING_MAX: Final = 64  # characters: an unfinished colour sequence longer than this is none
_COLOUR: Final = r"\x1b\[[0-9;:]*m"
# C0 but for tab, newline and return; DEL and C1; marks that reorder or hide text; line separators
_CONTROL: Final = (
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_UNSAFE: Final = re.compile(f"({_COLOUR})|({_CONTROL})")
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-9;:]*)?\Z")
RESET: Final = "\x1b[0m"


class SafeText:
    """Bytes in, safe text out, in any cuts: a character or colour that is split between two pieces stays whole.

    Control characters and bytes that are not UTF-8 come out as `\\x1b`, `\\xff`, `\\u202e`. Tab, newline and carriage
    return pass, colours (SGR sequences) only with `colours`.
    """

    def __init__(self, colours: bool) -> None:
        self._colours = colours
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._pending = ""
        self.coloured = False  # a colour is on that nobody switched off

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The safe text of `data`; with `last`, of what was held back too."""
        text = self._pending + self._decode.decode(data, last)
        self._pending = ""
        if not last and (cut := _UNFINISHED.search(text)) and len(cut[0]) <= _PENDING_MAX:
            text, self._pending = text[: cut.start()], cut[0]
        return _UNSAFE.sub(self._shown, text)

    def _shown(self, match: re.Match[str]) -> str:
        colour, control = match[1], match[2]
        if colour and self._colours:
            self.coloured = colour not in (RESET, "\x1b[m")
            return colour
        return "\\x1b" + colour[1:] if colour else _escaped(control)


def _escaped(char: str) -> str:
    point = ord(char)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def safe_line(text: str) -> str:
    """One safe line of `text`, for table cells and sentences that hold words of others."""
    return SafeText(colours=False).feed(text.encode("utf-8", "surrogateescape"), last=True).translate(_FLAT)


_FLAT: Final = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": " "})
