"""The ledger by itself: its schema, its transactions, its addresses."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

import ergosphere
from ergosphere import system
from ergosphere.control.bell import Bell
from ergosphere.control.leases import Leases
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import Base, EnvironmentRow, JobRow, NodeRow, ProjectRow
from ergosphere.core.model import Plan, Tier
from ergosphere.wire.addresses import HOSTS, cell_address, fleet_prefix, gateway


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    clock = system.SystemClock()
    database = open_database(tmp_path / "ledger.db")
    return Ledger(database, clock, Leases(clock), Bell(clock), system.short_id, "10.99")


def job(name: str, **rest: object) -> JobRow:
    return JobRow(id=name, name=name, project="p", tier=Tier.BASIC, ranks=1, spec={}, submitted_s=1.0, **rest)


def test_migrations_make_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    database = open_database(path)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, Base.metadata) == []
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database.dispose()
    open_database(path).dispose()


UPGRADE = """
import os, signal, sys
from pathlib import Path
from alembic import command, op
from ergosphere.control.ledger import database

path, revision, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
upgrade, add = command.upgrade, op.add_column
command.upgrade = lambda config, _: upgrade(config, revision)

def add_column(*given):
    global steps
    steps -= 1
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    add(*given)

op.add_column = add_column
database.open_database(path).dispose()
"""


def schema(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        revisions = connection.execute("SELECT version_num FROM alembic_version")
        tables = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY sql")
        return [row[0] for row in (*revisions, *tables)]


def test_a_migration_that_is_killed_in_the_middle_leaves_the_old_schema_whole(tmp_path: Path) -> None:
    path, source = tmp_path / "ledger.db", str(Path(ergosphere.__file__).parent.parent)

    def upgrade(revision: str, steps: int) -> int:
        command = [sys.executable, "-c", UPGRADE, str(path), revision, str(steps)]
        return subprocess.run(command, env={"PYTHONPATH": source}, check=False).returncode

    assert upgrade("0040", 0) == 0
    old = schema(path)
    assert old[0] == "0040"
    assert upgrade("0050", 5) == -9
    assert schema(path) == old
    open_database(path).dispose()
    assert schema(path)[0] == "0090"


def test_a_plan_is_refused_when_somebody_looked_since_or_the_projects_are_others(ledger: Ledger) -> None:
    seen = ledger.observe()
    later = ledger.observe()
    assert not ledger.commit(Plan(), seen.version)
    with ledger.change() as change:
        change.session.add(ProjectRow(id="lab"))
    assert not ledger.commit(Plan(), later.version)
    assert ledger.commit(Plan(), ledger.observe().version)


def test_a_change_that_raises_is_undone_and_one_that_writes_nothing_rings_no_bell(ledger: Ledger) -> None:
    heard = ledger.bell.count
    with pytest.raises(ZeroDivisionError), ledger.change() as change:
        change.session.add(NodeRow(id="n", devices=1))
        change.session.flush()
        raise ZeroDivisionError
    with ledger.change() as change:
        assert change.node("n") is None
    assert ledger.bell.count == heard


def test_addresses_are_never_those_of_a_live_job(ledger: Ledger) -> None:
    with ledger.change() as change:
        change.session.add(job("a", addresses=[cell_address("10.99", 1)]))
    with ledger.change() as change:
        assert change.addresses(2) == [cell_address("10.99", 0), cell_address("10.99", 2)]


def test_an_environment_that_is_no_unicode_comes_back_as_it_was(ledger: Ledger) -> None:
    odd = {"NAME": b"\xff\xfe caf\xc3\xa9".decode(errors="surrogateescape"), "MORE": "∞"}
    with ledger.change() as change:
        change.session.add(job("a"))
        change.session.flush()
        change.session.add(EnvironmentRow(job="a", env=odd))
    with ledger.read() as look:
        assert look.session.get_one(EnvironmentRow, "a").env == odd


def test_every_cell_number_has_a_usable_address() -> None:
    prefix = fleet_prefix("deadbeef")
    everywhere = {cell_address(prefix, number) for number in range(HOSTS)}
    assert len(everywhere) == HOSTS
    assert not everywhere & {gateway(prefix), f"{prefix}.0.0", f"{prefix}.255.255"}
    assert fleet_prefix("deadbeef") == prefix
