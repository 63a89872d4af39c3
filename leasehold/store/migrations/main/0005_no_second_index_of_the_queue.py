"""No second index of the queue: all ask the table `queue`"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_leases_queue", table_name="leases")
