"""`python -m ergosphere.control.server`: one service over one home. Wiring, start and end; nothing else."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from sqlalchemy import select
from starlette.types import ASGIApp

from ergosphere import system
from ergosphere.agent.network import SUBNET_RECORD, choose_subnet
from ergosphere.control import closing
from ergosphere.control.api.app import build
from ergosphere.control.leases import LEASE_S, MARGIN_S, Leases
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import JobRow, NodeRow
from ergosphere.control.service import Closing, Identity, Service, assemble
from ergosphere.control.tidy import Tidy
from ergosphere.core.policy.rules import Rules
from ergosphere.engines.local import LocalEngine
from ergosphere.snapshots.depot import Depot, open_depot
from ergosphere.snapshots.errors import SnapshotError, StoreUnreachable

EXIT_HELD: Final = 3  # another server holds this home
EXIT_STORE: Final = 4  # the store cannot be opened
PROBED: Final = "default"  # the project whose vault is opened to see that the key is right
ENSURE_S: Final = 0.5  # how often the engine looks for dead agents
GRACEFUL_S: Final = 2  # for answers under way when the server ends
LOG_BYTES_MAX: Final = 10_000_000

log = logging.getLogger(__name__)
SETTLED: Final = 10.0  # times `min_run_s` that a job runs before it is moved to grow or for a larger one


@dataclass(frozen=True, slots=True)
class Options:
    home: Path
    nodes: int
    devices: int
    host: str
    port: int
    lease_s: float
    margin_s: float
    min_run_s: float


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or a shutdown; 3 when another server holds the home."""
    options = _options(arguments)
    folder = options.home / "server"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"another server already serves {options.home}; `ergo status` shows it, `ergo down` ends it\n")
        return EXIT_HELD
    try:
        depot = open_depot(options.home, folder / "cache", folder)
        with suppress(StoreUnreachable):  # a store that is away comes back; a wrong key does not get right
            depot.vault(PROBED)
    except SnapshotError as error:
        sys.stderr.write(f"error: {error.cause}\nremedy: {error.remedy}\n")
        return EXIT_STORE
    _log_to(folder / "server.log")
    _serve(options, folder, depot)
    return 0


def _options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="ergosphere.control.server")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=1, help="agents that the local engine keeps running; 0 for none")
    parser.add_argument("--devices", type=int, default=1, help="of each local node")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: the one it had before, or any free one")
    parser.add_argument("--lease-s", type=float, default=LEASE_S)
    parser.add_argument("--margin-s", type=float, default=MARGIN_S)
    parser.add_argument("--min-run-s", type=float, default=Rules().min_run_s)
    given = vars(parser.parse_args(arguments))
    given["home"] = given["home"].absolute()
    return Options(**given)


def _serve(options: Options, folder: Path, depot: Depot) -> None:
    listening = _listen(options, folder)
    port = listening.getsockname()[1]
    token = _token(folder / "token")
    service = _assemble(options, depot)
    app = build(service, token, options.host)
    server = _HttpServer(_quiet(app), service.dismiss)
    service.closing.leave = lambda: setattr(server, "should_exit", True)
    _begin(service)
    ending = threading.Event()
    background = [_every(ENSURE_S, service.engine.ensure, ending), Tidy(service).start(ending)]
    _write_private(folder / "server.json", json.dumps({"url": f"http://{options.host}:{port}", "pid": os.getpid()}))
    log.info("serving %s on port %d", options.home, port)
    server.run(sockets=[listening])
    ending.set()
    service.loop.stop()
    for thread in background:
        thread.join(timeout=GRACEFUL_S)
    (folder / "server.json").unlink(missing_ok=True)
    service.ledger.close()
    log.info("ended")


class _HttpServer(uvicorn.Server):
    """Ends gracefully on a signal, and lets its caller tidy up: the original raises the signal again.

    `dismiss`: what answers the requests that wait for news.
    """

    def __init__(self, config: uvicorn.Config, dismiss: Callable[[], None]) -> None:
        super().__init__(config)
        self._dismiss = dismiss

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._dismiss()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield


def _quiet(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACEFUL_S, lifespan="off")


def _assemble(options: Options, depot: Depot) -> Service:
    clock = system.SystemClock()
    fleet = system.fleet_id(options.home)
    subnet = choose_subnet(fleet, options.home / SUBNET_RECORD)
    prefix = ".".join(str(subnet.network_address).split(".")[:2])
    identity = Identity(options.home, fleet, prefix, os.getpid(), clock.now())
    engine = LocalEngine(options.home, options.nodes, options.devices, clock, system.environment())
    return assemble(
        identity,
        clock,
        open_database(options.home / "server/ledger.db"),
        depot,
        engine,
        Closing(leave=lambda: None),
        leases=Leases(clock, options.lease_s, options.margin_s),
        rules=Rules(min_run_s=options.min_run_s, settle_s=SETTLED * options.min_run_s),
        new_id=system.short_id,
    )


def _begin(service: Service) -> None:
    """What every start does before the first request: know the nodes, let go what a shutdown held."""
    _know_nodes(service.ledger, service.engine.nodes())
    closing.let_go(service, "the service is up again")
    service.loop.start()


def _know_nodes(ledger: Ledger, supplied: dict[str, int]) -> None:
    """Nodes that the engine is about to start count for the largest job that could ever fit."""
    with ledger.change() as change:
        for row in change.session.scalars(select(NodeRow)):
            if supplied and row.id not in supplied and not _is_used(change.live_jobs(), row.id):
                change.session.delete(row)
        for node, devices in supplied.items():
            change.session.merge(NodeRow(id=node, devices=devices))


def _is_used(jobs: list[JobRow], node: str) -> bool:
    return any(seat[0] == node for job in jobs for seat in job.seats)


def _every(period_s: float, do: Callable[[], None], ending: threading.Event) -> threading.Thread:
    def run() -> None:
        while not ending.wait(period_s):
            try:
                do()
            except Exception:  # the one door: what failed is tried again, and stands in the log until then
                log.exception("the engine failed")

    do()
    thread = threading.Thread(target=run, name="engine", daemon=True)
    thread.start()
    return thread


def _listen(options: Options, folder: Path) -> socket.socket:
    """A listening socket: on the port asked for, else on the one before (agents and shells know it), else any."""
    wanted = [options.port] if options.port else [_port_before(folder), 0]
    listening = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in wanted:
        try:
            listening.bind((options.host, port))
            break
        except OSError:
            if port == wanted[-1]:
                raise
    listening.listen(512)
    _write_private(folder / "port", str(listening.getsockname()[1]))
    return listening


def _port_before(folder: Path) -> int:
    try:
        return int((folder / "port").read_text())
    except (OSError, ValueError):
        return 0


def _token(path: Path) -> str:
    """The token of this home: made once, readable by its owner alone."""
    if not path.exists():
        _write_private(path, system.token())
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as writing:
        writing.write(text + "\n")
    aside.rename(path)


def _log_to(path: Path) -> None:
    """One log file, private. Requests, headers and bodies are never logged, so no secret gets there."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


if __name__ == "__main__":
    raise SystemExit(main())
