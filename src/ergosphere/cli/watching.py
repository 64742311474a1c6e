"""`--watch`: an answer drawn again and again until somebody ends it. Nothing here knows what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

from ergosphere.cli import screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ergosphere.system import Clock

WATCH_S: Final = 1.0  # between two looks

View = Callable[[int], "RenderableType"]  # what is seen now, for so many columns


def watch(clock: Clock, view: View) -> NoReturn:
    """The view once a second: over the last one on a terminal, elsewhere one below the other. Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not console.is_terminal:
        _one_below_the_other(clock, view)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(console.width), refresh=True)
            clock.sleep(WATCH_S)


def _one_below_the_other(clock: Clock, view: View) -> NoReturn:
    while True:
        screen.show(view(screen.width()))
        clock.sleep(WATCH_S)
