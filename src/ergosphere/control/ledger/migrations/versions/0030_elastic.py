"""Jobs that run on fewer devices than they have ranks."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0020"
branch_labels = None
depends_on = None


def _jobs() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("min_devices", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("devices_asked", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("resize_asked", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("going_to", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("arrangement", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("resized_s", sa.Double(), nullable=False, server_default="0"),
        sa.Column("resizes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("resize_failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("resize_failed", sa.String(), nullable=False, server_default=""),
        sa.Column("resize_failed_remedy", sa.String(), nullable=False, server_default=""),
        sa.Column("shareable", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("not_shareable_because", sa.String(), nullable=False, server_default=""),
    )


def upgrade() -> None:
    for column in _jobs():
        op.add_column("jobs", column)
    op.add_column("nodes", sa.Column("memory_bytes", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("nodes", "memory_bytes")
    for column in reversed(_jobs()):
        op.drop_column("jobs", column.name)
