"""What a check of the store found wrong with a snapshot there."""

import sqlalchemy as sa
from alembic import op

revision = "0070"
down_revision = "0060"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("store_fault", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("snapshots", "store_fault")
