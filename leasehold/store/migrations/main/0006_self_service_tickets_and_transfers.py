"""Self-service, tickets, and leases that go to another owner"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TAKEN = "self_service AND ended_at IS NULL"


def upgrade() -> None:
    # SQLite must not make the table anew: others refer to its rows.
    with op.batch_alter_table("leases", recreate="never") as batch_op:
        batch_op.add_column(sa.Column("ticket", sa.Text(), nullable=True, comment="A URL that an admit hook gave it"))
        for name, comment in (
            ("self_service", "Requested by one who is no operator: the rules for self-service hold"),
            ("unverified", "Requested without a token: the owner is what somebody said"),
        ):
            batch_op.add_column(
                sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false(), comment=comment)
            )
        batch_op.add_column(
            sa.Column(
                "transfers",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="How often it got another owner: its token is a new one then",
            )
        )
        batch_op.create_index(
            "ix_leases_self_service",
            ["owner"],
            postgresql_where=sa.text(TAKEN),
            sqlite_where=sa.text(TAKEN),
        )
