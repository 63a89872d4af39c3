"""What was printed while no lease was involved, by resource"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NO_LEASE = "lease = ''"


def upgrade() -> None:
    op.create_index(
        "ix_logs_resource",
        "logs",
        ["pool", "resource", "id"],
        postgresql_where=sa.text(NO_LEASE),
        sqlite_where=sa.text(NO_LEASE),
    )
