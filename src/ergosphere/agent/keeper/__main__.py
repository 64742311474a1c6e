"""`python -m keeper JOB.INCARNATION.CELL`, with its configuration as JSON on standard input.

Ends with 0 once a keeper of its own session listens; else with 1 and a sentence on standard output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from . import kernel
from .loop import Loop, listen


def main() -> int:
    """Reads the configuration, goes to the background, keeps."""
    del sys.path[0]  # the folder we were started in: its modules are not ours, whatever their names
    config = json.load(sys.stdin)
    ready, tell = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(tell)
        told = os.read(ready, 4096).decode()
        print(told.removeprefix("ready"), end="")
        return 0 if told == "ready" else 1
    os.close(ready)
    try:
        listener = _settle(config)
        loop = Loop(config, listener)
    except Exception as error:
        os.write(tell, f"the keeper could not start: {error}".encode())
        return 1
    os.write(tell, b"ready")
    os.close(tell)
    loop.run()
    listener.close()
    os.unlink(config["socket"])
    return 0


def _settle(config: dict[str, Any]) -> Any:
    """Away from whoever started us: own session, own group, no descriptor of theirs, deaf to polite signals."""
    os.setsid()
    os.umask(0o077)
    os.chdir("/")
    for polite in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(polite, signal.SIG_IGN)
    kernel.become_subreaper()
    kernel.set_name("keeper")
    if config.get("keepers_group"):
        Path(config["keepers_group"], "cgroup.procs").write_text(str(os.getpid()))
    log = os.open(config["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    for number, descriptor in ((0, null), (1, log), (2, log)):
        os.dup2(descriptor, number)
    return listen(config["socket"])


if __name__ == "__main__":
    sys.exit(main())
