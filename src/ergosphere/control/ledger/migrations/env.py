"""Alembic's entry: runs the migrations on the connection that `database.open_database` hands over."""

from alembic import context

from ergosphere.control.ledger.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
