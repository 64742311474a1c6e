"""What a keeper runs at its deadline: `python -m ergosphere.snapshots.resolve STORE FREEZE_ID [CREDENTIALS]`.

CREDENTIALS is a file with the variables that an object store wants: a keeper's environment has none of them.

Tries to win `abort`, then prints what was decided, `commit` or `abort`. Any other exit status than 0 means
that nobody knows yet: stay suspended and ask again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from ergosphere import system
from ergosphere.snapshots.errors import SnapshotError
from ergosphere.snapshots.opening import open_store
from ergosphere.snapshots.records import abort, outcome, record_key

EXIT_UNKNOWN: Final = 75  # EX_TEMPFAIL: try again later
EXIT_USAGE: Final = 64
WHY: Final = "the freeze was not decided before its deadline"


def resolve(url: str, freeze_id: str) -> str:
    """`commit` or `abort`. Errors: SnapshotError."""
    store = open_store(url)
    try:
        abort(store, freeze_id, WHY)
    except SnapshotError:  # a damaged manifest was committed all the same
        return outcome(store.get(record_key(freeze_id)), freeze_id)
    return outcome(store.get(record_key(freeze_id)), freeze_id)


def main(arguments: list[str]) -> int:
    """Exit status of the command."""
    if len(arguments) not in (2, 3):
        print("usage: python -m ergosphere.snapshots.resolve STORE FREEZE_ID [CREDENTIALS]", file=sys.stderr)
        return EXIT_USAGE
    try:
        if len(arguments) == 3:
            system.adopt(json.loads(Path(arguments[2]).read_text()))
        print(resolve(arguments[0], arguments[1]))
    except (SnapshotError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return EXIT_UNKNOWN
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
