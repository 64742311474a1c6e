"""Nodes on which a job did not come up, until when it is tried elsewhere; whether it has run since its snapshot."""

import sqlalchemy as sa
from alembic import op

revision = "0060"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("ran_on", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("jobs", sa.Column("shunned", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("jobs", "shunned")
    op.drop_column("jobs", "ran_on")
