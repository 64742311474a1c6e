"""What a failed job wrote last to its standard error: of the rank that failed first, bounded, as it was written."""

from __future__ import annotations

import re
from typing import Final

from ergosphere.control.ledger.tables import JobRow
from ergosphere.control.logs import LogFiles
from ergosphere.core.model import Phase
from ergosphere.wire.jobs import LastWords

LINES: Final = 3
LINE_MAX: Final = 300  # characters of one line; of a longer one its end
TAIL_BYTES: Final = 4096  # read from the end of the log
_LINE_END: Final = re.compile(r"[\r\n]+")  # a progress bar writes its line anew after each return


def last_words(logs: LogFiles, job: JobRow) -> LastWords | None:
    rank = job.first_rank if job.phase is Phase.FAILED else None
    if rank is None:
        return None
    _, tail = logs.read(job.id, f"rank{rank}.err", -TAIL_BYTES, TAIL_BYTES)
    lines = [line.rstrip() for line in _LINE_END.split(tail.decode(errors="backslashreplace"))]
    written = [line if len(line) <= LINE_MAX else f"…{line[1 - LINE_MAX :]}" for line in lines if line]
    return LastWords(rank=rank, lines=tuple(written[-LINES:])) if written else None
