"""How a fork's processes, which run already, hear of what the fork was given: files in their own /run/ergo.

Nobody can change the environment of a process from outside. So it is written where every process can look; ranks with
a shim take it over into `os.environ` before they go on (`shim/ergo_shim/control.py`).
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Final

from ergosphere.wire.agents import LifePlan

FORK_JSON: Final = "fork.json"  # {"job": …, "from": "JOB@SNAPSHOT", "env": {…}}
FORK_ENV: Final = "fork.env"  # the same for shells: `. /run/ergo/fork.env`


def tell(folder: Path, life: LifePlan) -> None:
    """Write what the fork was given into a rank's folder."""
    given = {name: life.spec.env[name] for name in life.fork_names if name in life.spec.env}
    told = {"job": life.job, "from": life.forked_from, "env": given}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(given.items())]
    _write(folder / FORK_JSON, json.dumps(told, indent=1) + "\n")
    _write(folder / FORK_ENV, "".join(f"{line}\n" for line in lines))


def _write(path: Path, text: str) -> None:
    """Values may be secrets: for the job's own processes only."""
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)
