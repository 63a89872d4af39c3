"""Users with passwords"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password", sa.Text(), nullable=False, comment="Argon2's hash, with its salt and settings"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("password_at", sa.DateTime(timezone=True), nullable=False, comment="When the password was set"),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True, comment="From then on nobody logs in"),
        sa.Column("disabled_by", sa.String(length=128), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
        comment="Who has a password; a token can have a user without one",
    )
