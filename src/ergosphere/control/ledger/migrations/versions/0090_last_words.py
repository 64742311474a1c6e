"""Which rank ended a job's life first: its last words explain a failure."""

import sqlalchemy as sa
from alembic import op

revision = "0090"
down_revision = "0080"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("first_rank", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "first_rank")
