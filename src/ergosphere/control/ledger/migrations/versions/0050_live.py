"""A live ledger for many jobs: what every turn asks for has an index; who borrows; what nodes are.

No version is counted any more: a plan is checked row by row.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0050"
down_revision = "0040"
branch_labels = None
depends_on = None


def _nodes() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("region", sa.String(), nullable=False, server_default=""),
        sa.Column("cluster", sa.String(), nullable=False, server_default=""),
        sa.Column("domain", sa.String(), nullable=False, server_default=""),
        sa.Column("type", sa.String(), nullable=False, server_default=""),
        sa.Column("device_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("spot", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("leaves_s", sa.Double(), nullable=True),
        sa.Column("failures", sa.JSON(), nullable=False, server_default="[]"),
    )


def upgrade() -> None:
    op.drop_column("world", "version")
    op.create_index("ix_nodes_devices", "nodes", ["devices"], unique=False)
    op.create_index("ix_cells_node", "cells", ["node"], unique=False)
    op.add_column("jobs", sa.Column("borrowed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("borrowed_turn_s", sa.Double(), nullable=False, server_default="0"))
    op.add_column("windows", sa.Column("borrowed", sa.Boolean(), nullable=False, server_default=sa.false()))
    for column in _nodes():
        op.add_column("nodes", column)


def downgrade() -> None:
    for column in reversed(_nodes()):
        op.drop_column("nodes", column.name)
    op.drop_column("windows", "borrowed")
    op.drop_column("jobs", "borrowed_turn_s")
    op.drop_column("jobs", "borrowed")
    op.drop_index("ix_cells_node", "cells")
    op.drop_index("ix_nodes_devices", "nodes")
    op.add_column("world", sa.Column("version", sa.Integer(), nullable=False, server_default="0"))
