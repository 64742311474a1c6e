"""A store of a million chunks: as many packs, indexes, recipes, records and marks as one has; contents are tiny."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from bench.report import Row, row
from bench.vaults import DISK
from ergosphere import system
from ergosphere.control.leases import Leases
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.tables import JobRow, SnapshotRow
from ergosphere.control.service import Closing, Identity, Service, assemble
from ergosphere.core.model import Phase, Tier
from ergosphere.core.policy.rules import Rules
from ergosphere.engines.local import LocalEngine
from ergosphere.snapshots import records
from ergosphere.snapshots.blobs import put_blob
from ergosphere.snapshots.chunk_index import Names, names_of, unique
from ergosphere.snapshots.depot import open_depot
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.manifest import CellPart, ImageFile, Log, LogPiece, Manifest, MappedFile, RankPart
from ergosphere.snapshots.packs import PackBuilder, Rows
from ergosphere.snapshots.recipes import Recipe, StreamPart
from ergosphere.snapshots.remote import marker
from ergosphere.snapshots.tree import ROOT, Entry, Kind, Tree, TreeSum
from ergosphere.snapshots.vault import Vault
from ergosphere.wire.jobs import JobSpec

CHUNKS: Final = 1_000_000
PACK_CHUNKS: Final = 455  # of usual size, 36 kB, in a pack: 2,200 packs in all
PROJECTS: Final = {"vision": 5, "text": 2, "audio": 1}  # jobs, each with as many chunks
SNAPSHOTS: Final = 5  # of each job; half of what one has is as in the one before
CELLS: Final = 2  # of a job, with two ranks each
FORGOTTEN: Final = 500  # snapshots whose records are kept for a month
IMAGES, MAPPED, FILES = 32, 192, 50  # files of a rank's image, used outside by a cell, of a submission
KEY: Final = bytes(range(32)).hex()

CODE = """
import json, sys
from pathlib import Path
from bench.store_million import service_of
from bench.vaults import peak_mb, timed
from ergosphere.control import shown
from ergosphere.control.tidy import Tidy
base_mb = peak_mb()
services, found, plans = [], [], []
def opened():
    services.append(service_of(Path(sys.argv[1])))
    return [len(vault.index) for vault in services[0].depot.vaults()[0]]
def listed():
    with services[0].ledger.read() as look:
        found.extend(one.model_dump_json() for one in shown.listed(look, None, services[0].inbox.uploads))
open_s, list_s = timed(opened), timed(listed)
plan_s = timed(lambda: plans.append(Tidy(services[0]).report(dry_run=True)))
chunks = sum(len(vault.index) for vault in services[0].depot.vaults()[0])
print(json.dumps([open_s, list_s, plan_s, peak_mb(), base_mb, chunks, len(found), plans[0].notes]))
"""


def million_rows(quick: bool) -> list[Row]:
    """Opened, listed and planned by a fresh process as the server does it: `ergo snapshot ls`, `ergo snapshot gc`."""
    os.environ["ERGO_KEY"] = KEY
    with TemporaryDirectory(dir=DISK) as folder:
        made = _write(Path(folder), CHUNKS // 10 if quick else CHUNKS)
        command = [sys.executable, "-c", CODE, folder]
        told = [
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            for _ in range(1 if quick else 5)
        ]
    assert told[0][5:] == [made.chunks, made.snapshots, []], told[0]
    said = f"{made.chunks} chunks in {made.packs} packs, {made.snapshots} snapshots of {len(PROJECTS)} projects"
    rows = [
        row(f"store/million/{name}", [each[at] for each in told], "s", goal=1.0, bar=1.0, against=said)
        for at, name in enumerate(("open", "list", "plan_sweep"))
    ]
    peak, base = [each[3] for each in told], told[0][4]
    against = f"the whole process, {base:.0f} MB before it opened the store"
    return [*rows, row("store/million/memory", peak, "MB", goal=300, bar=300, against=against)]


def service_of(home: Path) -> Service:
    """A server's parts over this home, without its threads and without nodes."""
    clock = system.SystemClock()
    return assemble(
        Identity(home, "f", "10.99", 1, 0.0),
        clock,
        open_database(home / "server/ledger.db"),
        open_depot(home),
        LocalEngine(home, 0, 0, clock, {}),
        Closing(leave=lambda: None),
        leases=Leases(clock),
        rules=Rules(),
        new_id=system.short_id,
    )


@dataclass(slots=True)
class _Made:
    chunks: int = 0
    packs: int = 0
    snapshots: int = 0


def _write(home: Path, chunks: int) -> _Made:
    (home / "server").mkdir()
    service, made = service_of(home), _Made()
    dice, per = random.Random(5), chunks // (sum(PROJECTS.values()) * SNAPSHOTS)
    for project, jobs in PROJECTS.items():
        vault = service.depot.vault(project)
        for number in range(jobs):
            if number == jobs - 1:  # a sweep has merged what is older
                vault.rewrite_index(set(vault.pack_sizes()))
            _write_job(service, vault, f"{project}{number}", dice, per, made)
    for number in range(FORGOTTEN):
        records.sweep_record(service.store, f"gone{number}")
    service.ledger.close()
    return made


def _write_job(service: Service, vault: Vault, job: str, dice: random.Random, per: int, made: _Made) -> None:
    with service.ledger.change() as change:
        change.session.add(_job_row(job, vault.project, _submission(service, job)))
    before = names_of(b"")
    for number in range(SNAPSHOTS):
        fresh = dice.randbytes(32 * per)
        made.packs += _write_packs(vault, fresh)
        mine = names_of(fresh)
        both, _ = unique(np.concatenate([before, mine]))
        _write_snapshot(service, vault, (job, number), both)
        before = mine
        made.chunks, made.snapshots = made.chunks + per, made.snapshots + 1


def _write_packs(vault: Vault, names: bytes) -> int:
    builder, packs = PackBuilder(vault.sealer), list[tuple[bytes, Rows]]()
    step = 32 * PACK_CHUNKS
    for first in range(0, len(names), step):
        for at in range(first, min(first + step, len(names)), 32):
            builder.add(names[at : at + 32], memoryview(names[at : at + 16]))
        sealed = builder.finish()
        vault.store.put(vault.pack_key(sealed.id), sealed.content)
        packs.append((sealed.id, sealed.rows))
    vault.publish(packs)
    return len(packs)


def _write_snapshot(service: Service, vault: Vault, which: tuple[str, int], names: Names) -> None:
    job, number = which
    name, half = f"{job}-{number}", -(-len(names) // CELLS)
    parts = tuple(_cell(name, cell) for cell in range(CELLS))
    manifest = Manifest(
        name, job, 1, {"project": vault.project}, float(number), "periodic", 0.1, "4.2.1", "6.1", None, parts
    )
    records.commit(service.store, name, manifest)
    for part in parts:
        vault.put_recipe(_recipe(name, part, np.ascontiguousarray(names[part.index * half :][:half])))
        service.store.put(marker(name, part.index), b"")
    with service.ledger.change() as change:
        change.session.add(_snapshot_row(name, job, number))


def _cell(snapshot: str, number: int) -> CellPart:
    """As large as those that real jobs have: 75 kB a cell of four ranks."""
    ranks = tuple(
        RankPart(rank, tuple(ImageFile(f"image-{i}.img", 500, _digest(snapshot, rank, i)) for i in range(IMAGES)))
        for rank in range(2 * number, 2 * number + 2)
    )
    mapped = tuple(MappedFile(f"/usr/lib/python3/site-packages/torch/lib/lib{i}.so", i, i) for i in range(MAPPED))
    needs = {"builds": {file.path: _digest("build", 0, i)[:40] for i, file in enumerate(mapped)}}
    logs = tuple(Log(f"rank{rank.rank}.out", (LogPiece(_digest(snapshot, rank.rank, -1), 500),)) for rank in ranks)
    work = TreeSum(_digest(snapshot, number, -2), FILES, 1000)
    return CellPart(number, "node-0", "10.99.0.2", "net", (0, 1), ranks, work, None, logs, mapped, {"needs": needs})


def _recipe(snapshot: str, part: CellPart, names: Names) -> Recipe:
    """All images of a rank as streams, the first of which has every chunk."""
    digests = [file.digest for rank in part.ranks for file in rank.files]
    digests += [piece.digest for log in part.logs for piece in log.pieces] + [part.work.digest]
    whole = StreamPart(digests[0], "rank0/pages-1.img", 16 * len(names), 0, len(names))
    rest = tuple(StreamPart(digest, "file", 16, 0, 1) for digest in digests[1:])
    spans = np.arange(len(names), dtype=np.uint32)
    return Recipe(snapshot, part.index, (whole, *rest), names, spans, np.full(len(names), 16, np.uint32))


def _digest(snapshot: str, rank: int, number: int) -> str:
    return digest_bytes(f"{snapshot} {rank} {number}".encode())


def _submission(service: Service, job: str) -> TreeSum:
    """A directory of small files, as a job comes with."""
    contents = {f"file{number}.py": f"{job} {number}".encode() for number in range(FILES)}
    entries = [Entry(ROOT, Kind.DIR, 0o755)]
    for path, content in sorted(contents.items()):
        digest = put_blob(service.store, content)
        entries.append(Entry(path, Kind.FILE, 0o644, size=len(content), digest=digest))
    tree = Tree(tuple(entries))
    put_blob(service.store, tree.document)
    return tree.summary()


def _job_row(job: str, project: str, tree: TreeSum) -> JobRow:
    spec = JobSpec(name=job, command=("train",), workdir="/w", project=project).model_dump(mode="json")
    spec["tree"] = {"digest": tree.digest, "files": tree.files, "bytes": tree.bytes}
    made = JobRow(id=job, name=job, project=project, tier=Tier.BASIC, ranks=4, spec=spec)
    made.submitted_s, made.phase, made.incarnation, made.threads = 1.0, Phase.FROZEN, 1, 1
    made.cells, made.seats, made.addresses = [[0, 1], [2, 3]], [], ["10.99.0.2", "10.99.0.3"]
    return made


def _snapshot_row(name: str, job: str, number: int) -> SnapshotRow:
    return SnapshotRow(
        id=name,
        job=job,
        number=number,
        incarnation=1,
        taken_s=float(number),
        why="periodic",
        bytes=1 << 30,
        stopped_s=0.1,
        progress_s=1.0,
        durability="remote",
        log_lengths={"rank0.out": 500},
        nodes=["node-0", "node-0"],
    )


if __name__ == "__main__":
    from bench.report import show

    show(million_rows(quick=bool(os.environ.get("QUICK"))))
