"""What the policy keeps: accounts of the GPU fraction and their windows, projects, dependencies, services."""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("guarantee", sa.Integer(), nullable=True),
        sa.Column("limit", sa.Integer(), nullable=True),
        sa.Column("borrow", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "windows",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("began_s", sa.Double(), nullable=False),
        sa.Column("delivered", sa.Double(), nullable=False),
        sa.Column("entitled", sa.Double(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("hours", sa.Integer(), nullable=False),
        sa.Column("lost", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_windows_job", "windows", ["job", "seq"], unique=False)
    op.add_column("jobs", sa.Column("account", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("after", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("jobs", sa.Column("service", sa.String(), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("wanted", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("jobs", sa.Column("deadline_s", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("policy_pauses", sa.JSON(), nullable=False, server_default="[]"))
