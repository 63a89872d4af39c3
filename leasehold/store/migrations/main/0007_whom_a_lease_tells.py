"""Whom a request wants told of its lease"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "Whom its request wants told beside owner and cc; false: no person"
    with op.batch_alter_table("leases") as batch_op:
        batch_op.add_column(sa.Column("notify", sa.JSON(none_as_null=True), nullable=True, comment=comment))
    with op.batch_alter_table("outbox") as batch_op:
        batch_op.alter_column(
            "kind",
            existing_type=sa.String(length=16),
            existing_nullable=False,
            existing_comment="granted: signal the workflow; recycle: start it",
            comment="granted: signal the workflow; recycle, notice: start it",
        )
