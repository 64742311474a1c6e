"""Snapshots as things: names, copies, where they lie; measured costs; which node can thaw which."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0001"
branch_labels = None
depends_on = None

EMPTY = sa.text("'[]'")
ADDED = (
    ("jobs", "known_as", sa.JSON(), EMPTY),
    ("jobs", "known_name", sa.String(), ""),
    ("jobs", "forked_from", sa.String(), ""),
    ("jobs", "fork_names", sa.JSON(), EMPTY),
    ("jobs", "snapshot_name", sa.String(), ""),
    ("jobs", "rolling_back", sa.Boolean(), sa.false()),
    ("snapshots", "name", sa.String(), ""),
    ("snapshots", "nodes", sa.JSON(), EMPTY),
    ("snapshots", "machines", sa.JSON(), EMPTY),
    ("snapshots", "stranded", sa.Boolean(), sa.false()),
    ("snapshots", "origin", sa.String(), ""),
    ("nodes", "machine", sa.String(), ""),
)


def upgrade() -> None:
    for table, name, kind, default in ADDED:
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
    op.create_table(
        "costs",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_costs_job", "costs", ["job", "kind"], unique=False)
    op.create_index("ix_costs_node", "costs", ["node", "kind"], unique=False)
    op.create_table(
        "fitness",
        sa.Column("snapshot", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("snapshot", "node"),
    )


def downgrade() -> None:
    op.drop_table("fitness")
    op.drop_table("costs")
    for table, name, _, _ in reversed(ADDED):
        op.drop_column(table, name)
