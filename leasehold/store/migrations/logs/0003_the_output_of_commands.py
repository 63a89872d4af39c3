"""How far the output of commands has come"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outputs",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False, comment="So many bytes of frames are here"),
        sa.Column("closed", sa.Boolean(), nullable=False, comment="Nothing more comes"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lease", "attempt", name=op.f("pk_outputs")),
        comment="How far the output of commands has come",
    )
    op.create_index("ix_outputs_at", "outputs", ["at"])
