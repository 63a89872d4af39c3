"""Secrets of requests, for hooks and commands"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

OLD_COMMENT = "What of a request must not be in Temporal's history; deleted with the command's end, or never claimed"
COMMENT = "What of a request must not be in Temporal's history; deleted once what it had is recycled"
OLD_ENV, ENV = "Secret: the environment of its command", "Secret: the environment of its command, until that has ended"


def upgrade() -> None:
    with op.batch_alter_table("envelopes", recreate="never") as batch_op:
        batch_op.add_column(
            sa.Column("secrets", sa.JSON(none_as_null=True), nullable=True, comment="For its hooks and its command")
        )
    if op.get_bind().dialect.name == "postgresql":
        op.create_table_comment("envelopes", COMMENT, existing_comment=OLD_COMMENT)
        op.alter_column(
            "envelopes",
            "env",
            existing_type=sa.JSON(none_as_null=True),
            existing_nullable=False,
            existing_comment=OLD_ENV,
            comment=ENV,
        )
