"""Whom a request wants told of its lease"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "Whom its request wants told beside owner and cc; false: no person"
    with op.batch_alter_table("leases", recreate="never") as batch_op:
        batch_op.add_column(sa.Column("notify", sa.JSON(none_as_null=True), nullable=True, comment=comment))
    # SQLite keeps no comments, and would make the table anew, without its promise to use no number twice.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column(
            "outbox",
            "kind",
            existing_type=sa.String(length=16),
            existing_nullable=False,
            existing_comment="granted: signal the workflow; recycle: start it",
            comment="granted: signal the workflow; recycle, notice: start it",
        )
