"""The ledger by itself: its schema, its transactions, its addresses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

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
