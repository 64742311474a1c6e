"""`name  value` lines whose values wrap under themselves. Renderables for rich; they know no job."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

NAME_WIDTH: Final = 9
_VALUE_WIDTH_MIN: Final = 20


@dataclass(frozen=True, slots=True)
class Fact:
    """One named value."""

    name: str
    value: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        """Wrapped to the terminal; whole where nothing wraps."""
        width = max(_VALUE_WIDTH_MIN, options.max_width - NAME_WIDTH)
        pieces = [self.value] if options.no_wrap else textwrap.wrap(self.value, width) or [""]
        for number, piece in enumerate(pieces):
            name = self.name if number == 0 else ""
            yield Text.assemble((f"{name:<{NAME_WIDTH}}", "dim"), (piece, self.style), no_wrap=True, end="\n")
