"""Tables that fit: columns are dropped by rank and the widest shrink until a row has room. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ergosphere.cli.words import shortened

if TYPE_CHECKING:
    from rich.text import Text

_GAP: Final = 2  # columns between two columns


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `rank`: 0 is never dropped, the highest goes first. `floor`: it may shrink to this width."""

    title: str
    rank: int = 0
    right: bool = False
    floor: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One value with its style; `""` is plain."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Cells, and a remark that is written below them in full."""

    cells: tuple[Cell, ...]
    remark: str = ""


def fitted(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[tuple[int, int]]:
    """(column, width) of those that are shown: all that fit, the least needed dropped first."""
    natural = [max([len(c.title), *(len(r.cells[i].text) for r in rows)]) for i, c in enumerate(columns)]
    shown = list(range(len(columns)))
    while True:
        widths = {i: natural[i] for i in shown}
        over = sum(widths.values()) + _GAP * (len(shown) - 1) - width
        for i in sorted(shown, key=lambda i: -widths[i]):
            floor = columns[i].floor
            if over > 0 and floor is not None:
                cut = min(over, max(0, widths[i] - max(floor, len(columns[i].title))))
                widths[i] -= cut
                over -= cut
        droppable = [i for i in shown if columns[i].rank > 0]
        if over <= 0 or not droppable:
            return [(i, widths[i]) for i in shown]
        shown.remove(max(droppable, key=lambda i: columns[i].rank))


def table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> Text:
    """The table as styled text; a row's remark follows it, wrapped and dim."""
    from rich.text import Text

    layout = fitted(columns, rows, width)
    lines = [_line([Cell(columns[i].title, "bold") for i, _ in layout], columns, layout)]
    for row in rows:
        lines.append(_line([row.cells[i] for i, _ in layout], columns, layout))
        lines += _remark(row.remark, width)
    return Text("\n").join(lines)


def _line(cells: Sequence[Cell], columns: Sequence[Column], layout: Sequence[tuple[int, int]]) -> Text:
    from rich.text import Text

    line = Text(no_wrap=True)
    for cell, (index, width) in zip(cells, layout, strict=True):
        text = shortened(cell.text, width)
        line.append(" " * _GAP if len(line) else "")
        line.append(text.rjust(width) if columns[index].right else text.ljust(width), cell.style)
    line.rstrip()
    return line


def _remark(remark: str, width: int) -> list[Text]:
    import textwrap

    from rich.text import Text

    lines = textwrap.wrap(remark, max(20, width - 4)) if remark else []
    return [Text(f"  {'└' if i == 0 else ' '} {line}", "dim", no_wrap=True) for i, line in enumerate(lines)]
