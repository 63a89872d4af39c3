"""Resources that pools make, livechecks, and what is kept for a key"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

GRANTABLE = "state = 'free' AND offline_since IS NULL AND NOT draining AND NOT suspect AND share_key IS NULL"
SHARED = "share_key IS NOT NULL"
OLD_COMMENT = "granted: signal the workflow; recycle, notice: start it"
COMMENT = "granted: signal the workflow; tend: that of a pool; else: start one"


def upgrade() -> None:
    _change_resources()
    _make_tables()
    op.execute("INSERT INTO counters (name, value) VALUES ('instance', 0)")
    # SQLite must not make the tables anew: others refer to their rows.
    with op.batch_alter_table("pools", recreate="never") as batch_op:
        batch_op.add_column(
            sa.Column(
                "emptied",
                sa.Boolean(),
                nullable=False,
                server_default=sa.false(),
                comment="Paused, and what it has made is deleted once free",
            )
        )
    with op.batch_alter_table("leases", recreate="never") as batch_op:
        batch_op.add_column(
            sa.Column(
                "share_key",
                sa.String(length=128),
                nullable=True,
                comment="Who may have again what was given back under it",
            )
        )
        batch_op.add_column(
            sa.Column(
                "degraded",
                sa.JSON(none_as_null=True),
                nullable=True,
                comment="Its resources that fail their livechecks: pool, name, reason, since",
            )
        )
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column(
            "outbox",
            "kind",
            existing_type=sa.String(length=16),
            existing_nullable=False,
            existing_comment=OLD_COMMENT,
            comment=COMMENT,
        )


def _change_resources() -> None:
    op.drop_index("ix_resources_grantable", "resources")
    op.drop_index("ix_resources_free", "resources")
    with op.batch_alter_table("resources", recreate="never") as batch_op:
        batch_op.add_column(
            sa.Column(
                "spec",
                sa.BigInteger(),
                nullable=True,
                comment="With which its pool has made it; it was registered otherwise",
            )
        )
        batch_op.add_column(
            sa.Column(
                "suspect", sa.Boolean(), nullable=False, server_default=sa.false(), comment="Its last livecheck failed"
            )
        )
        batch_op.add_column(
            sa.Column(
                "share_key",
                sa.String(length=300),
                nullable=True,
                comment="It is free, and kept for who comes with this key",
            )
        )
        batch_op.add_column(sa.Column("kept_until", sa.DateTime(timezone=True), nullable=True))
    for name, columns, where in (
        ("ix_resources_share_key", ["share_key"], SHARED),
        ("ix_resources_grantable", ["pool", "name"], GRANTABLE),
        ("ix_resources_free", ["kind", "name"], GRANTABLE),
    ):
        op.create_index(name, "resources", columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def _make_tables() -> None:
    op.create_table(
        "instances",
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True, comment="Its own for ever; NULL: a listing found it"),
        sa.Column("place", sa.Integer(), nullable=True, comment="The lowest that was free in its pool"),
        sa.Column("counters", sa.JSON(none_as_null=True), nullable=False, comment="Its numbers of named counters"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True, comment="When it could be granted first"),
        sa.Column("free_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_granted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("uses", sa.Integer(), nullable=False, comment="How many leases have used it"),
        sa.Column("trouble", sa.Text(), nullable=True, comment="Why it is not deleted yet"),
        sa.Column(
            "data", sa.LargeBinary(), nullable=True, comment="What `create` printed: a secret of whoever holds it"
        ),
        sa.PrimaryKeyConstraint("pool", "name", name=op.f("pk_instances")),
        sa.UniqueConstraint("pool", "place", name=op.f("uq_instances_pool_place")),
        comment="What is known of resources that pools make, beside what is known of all",
    )
    op.create_table(
        "counted",
        sa.Column("counter", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("counter", "value", name=op.f("pk_counted")),
        comment="Numbers of named counters that are taken, by resources of any pool",
    )
    op.create_index("ix_counted_pool_name", "counted", ["pool", "name"])
    op.create_table(
        "growth",
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False, comment="How many creations have ended"),
        sa.Column("successes", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False, comment="How long those took that succeeded, together"),
        sa.Column("failures", sa.Integer(), nullable=False, comment="How many have failed since the last success"),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True, comment="After failures none begins before"),
        sa.Column("last_start_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_end_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trouble", sa.Text(), nullable=True, comment="Why the last one failed"),
        sa.Column(
            "first_grants",
            sa.Integer(),
            nullable=False,
            comment="Of how many resources it is known how long they waited for a holder",
        ),
        sa.Column("first_grant_seconds", sa.Float(), nullable=False),
        sa.Column("list_at", sa.DateTime(timezone=True), nullable=True, comment="When it is due to be listed again"),
        sa.Column("list_trouble", sa.Text(), nullable=True),
        sa.Column("last_listing", sa.String(length=300), nullable=True, comment="What of it was taken note of"),
        sa.PrimaryKeyConstraint("pool", name=op.f("pk_growth")),
        comment="How creations in a dynamic pool go",
    )
    op.create_table(
        "checks",
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "begun_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="One is under way since then, unless it is lost",
        ),
        sa.Column("failures", sa.Integer(), nullable=False, comment="How many livechecks in a row have failed"),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.Column("failed_since", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("pool", "name", name=op.f("pk_checks")),
        comment="Livechecks of resources",
    )
    op.create_index("ix_checks_due", "checks", ["pool", "due_at"])
    op.create_table(
        "strays",
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pool", "name", name=op.f("pk_strays")),
        comment="What the last listing of a pool has found and nobody knows",
    )
