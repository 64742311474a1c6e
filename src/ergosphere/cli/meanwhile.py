"""While a request blocks: what it waits for, said beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ergosphere.cli import screen
from ergosphere.cli.errors import CliError

if TYPE_CHECKING:
    from ergosphere.cli.api import Client
    from ergosphere.cli.desk import Desk

QUIET_S: Final = 1.0  # what is answered by then was not waited for
LOOK_S: Final = 0.5
LAST_LOOK_S_MAX: Final = 5.0


@contextmanager
def saying(here: Desk, title: str, look: Callable[[Client], str]) -> Iterator[None]:
    """Say now and then what `look` finds, over a connection of its own, until the block is left."""
    answered = threading.Event()
    teller = threading.Thread(target=_say, args=(here, title, look, answered), daemon=True)
    teller.start()
    try:
        yield
    finally:
        answered.set()
        teller.join(LAST_LOOK_S_MAX)  # what it shows is gone before the answer is printed


def _say(here: Desk, title: str, look: Callable[[Client], str], answered: threading.Event) -> None:
    if answered.wait(QUIET_S):
        return
    try:
        with here.client() as client, screen.progress(title, here.clock) as tell:
            while not answered.is_set():
                tell(0, 0, look(client))
                answered.wait(LOOK_S)
    except CliError:
        return  # the request itself says what is wrong
