"""What the next upload of a job will take, and from how many of its own freezes that is foretold."""

import sqlalchemy as sa
from alembic import op

revision = "0080"
down_revision = "0070"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("upload_cost_s", sa.Double(), nullable=False, server_default="1.0"))
    op.add_column("jobs", sa.Column("measured", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("jobs", "measured")
    op.drop_column("jobs", "upload_cost_s")
