"""Reservations, paused pools, and how long a lease waits"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RESERVED = "start_at IS NOT NULL"


def upgrade() -> None:
    with op.batch_alter_table("pools") as batch_op:
        batch_op.add_column(
            sa.Column(
                "paused_reason",
                sa.Text(),
                nullable=True,
                comment="Nothing of it is granted, until an operator resumes it",
            )
        )
        batch_op.add_column(sa.Column("paused_by", sa.String(length=128), nullable=True))
        batch_op.add_column(sa.Column("paused_since", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("leases") as batch_op:
        batch_op.add_column(
            sa.Column(
                "start_at",
                sa.DateTime(timezone=True),
                nullable=True,
                comment="A reservation: granted then, and not before",
            )
        )
        batch_op.add_column(
            sa.Column(
                "wait_until",
                sa.DateTime(timezone=True),
                nullable=True,
                comment="It fails if it still waits then",
            )
        )
    with op.batch_alter_table("queue") as batch_op:
        batch_op.add_column(
            sa.Column("start_at", sa.DateTime(timezone=True), nullable=True, comment="A reservation: not served before")
        )
        batch_op.create_index(
            "ix_queue_reserved",
            ["start_at"],
            postgresql_where=sa.text(RESERVED),
            sqlite_where=sa.text(RESERVED),
        )
    op.create_table(
        "promises",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("resource", sa.String(length=128), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("begins", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "ends",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it will be free again, as far as can be foreseen",
        ),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_promises_lease")),
        sa.PrimaryKeyConstraint("lease", "pool", "resource", name=op.f("pk_promises")),
        comment="Which resources a reservation will be given; gone once it is granted",
    )
    op.create_index("ix_promises_resource", "promises", ["pool", "resource"])
    op.create_index("ix_runs_pool", "runs", ["pool", "stage", "id"])
