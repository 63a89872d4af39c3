"""Access data that is no single resource's"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shared",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column(
            "data",
            sa.LargeBinary(),
            nullable=False,
            comment="A secret: what a deliver hook for the whole lease printed",
        ),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_shared_lease")),
        sa.PrimaryKeyConstraint("lease", "pool", name=op.f("pk_shared")),
    )
