"""The first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("lease", sa.String(length=64), nullable=True),
        sa.Column("pool", sa.String(length=128), nullable=True),
        sa.Column("resource", sa.String(length=128), nullable=True),
        sa.Column("actor", sa.String(length=128), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "data",
            sa.JSON(none_as_null=True),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_lease", ["lease", "id"], unique=False)
        batch_op.create_index("ix_events_resource", ["pool", "resource", "id"], unique=False)

    op.create_table(
        "facts",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_facts")),
        comment="What the service must remember of itself: which Temporal it belongs to, say",
    )
    op.create_table(
        "alerts",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_alerts")),
        comment="What stands until somebody has seen to it",
    )
    op.create_table(
        "files",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_files")),
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column(
            "error",
            sa.JSON(none_as_null=True),
            nullable=True,
        ),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column(
            "cc",
            sa.JSON(none_as_null=True),
            nullable=False,
        ),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column(
            "wanted",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="The items as requested",
        ),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("duration_s", sa.BigInteger(), nullable=False),
        sa.Column(
            "last_extension", sa.String(length=128), nullable=True, comment="So that an extension run twice counts once"
        ),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("granted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("active_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'ended') = (ended_at IS NOT NULL)", name=op.f("ck_leases_ended_at")),
        sa.CheckConstraint("state <> 'ended' OR outcome IS NOT NULL", name=op.f("ck_leases_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        sa.UniqueConstraint("number", name=op.f("uq_leases_number")),
    )
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.create_index("ix_leases_owner_number", ["owner", "number"], unique=False)
        batch_op.create_index(
            "ix_leases_queue",
            [sa.literal_column("priority DESC"), "number"],
            unique=False,
            postgresql_where=sa.text("state = 'queued'"),
            sqlite_where=sa.text("state = 'queued'"),
        )
        batch_op.create_index("ix_leases_state_number", ["state", "number"], unique=False)

    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "kind",
            sa.String(length=16),
            nullable=False,
            comment="granted: signal the lease; recycle: start the workflow",
        ),
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column(
            "message",
            sa.JSON(none_as_null=True),
            nullable=True,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trouble", sa.Text(), nullable=True, comment="Why it was not delivered yet"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.create_index(
            "ix_outbox_due",
            ["id"],
            unique=False,
            postgresql_where=sa.text("delivered_at IS NULL"),
            sqlite_where=sa.text("delivered_at IS NULL"),
        )

    op.create_table(
        "requests",
        sa.Column(
            "lease", sa.String(length=64), nullable=False, comment="Derived from the principal and the Idempotency-Key"
        ),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column(
            "digest",
            sa.String(length=64),
            nullable=False,
            comment="Of the body: the same key with another body is refused",
        ),
        sa.Column(
            "refusal",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="The error that answered it, if it was refused",
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lease", name=op.f("pk_requests")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("resource", sa.String(length=128), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("hook", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "deadline",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Past it no process of the run can be alive, whatever became of its worker",
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ending", sa.String(length=16), nullable=True),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint(
            "pool",
            "resource",
            "epoch",
            "stage",
            "hook",
            "attempt",
            name=op.f("uq_runs_pool_resource_epoch_stage_hook_attempt"),
        ),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index("ix_runs_lease", ["lease"], unique=False)
        batch_op.create_index(
            "ix_runs_open",
            ["pool", "resource"],
            unique=False,
            postgresql_where=sa.text("ended_at IS NULL"),
            sqlite_where=sa.text("ended_at IS NULL"),
        )

    op.create_table(
        "specs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column(
            "spec",
            sa.JSON(none_as_null=True),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_specs")),
        sa.UniqueConstraint("pool", "digest", name=op.f("uq_specs_pool_digest")),
        comment="Append-only: a lease keeps the hook settings of its grant",
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("resource", sa.String(length=128), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("spec", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=128), nullable=True),
        sa.Column("stage", sa.String(length=16), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("granted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=True, comment="What `deliver` printed: a secret of the holder"),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_grants_lease")),
        sa.ForeignKeyConstraint(["spec"], ["specs.id"], name=op.f("fk_grants_spec")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    with op.batch_alter_table("grants", schema=None) as batch_op:
        batch_op.create_index("ix_grants_lease", ["lease"], unique=False)
        batch_op.create_index(
            "uq_grants_open",
            ["pool", "resource"],
            unique=True,
            postgresql_where=sa.text("closed_at IS NULL"),
            sqlite_where=sa.text("closed_at IS NULL"),
        )

    op.create_table(
        "pools",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column(
            "file", sa.String(length=128), nullable=True, comment="The pools file that made it; NULL: made by PUT"
        ),
        sa.Column("spec", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column(
            "draining",
            sa.Boolean(),
            nullable=False,
            comment="Left its file while leased; deleted when the last resource is free",
        ),
        sa.ForeignKeyConstraint(["spec"], ["specs.id"], name=op.f("fk_pools_spec")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pools")),
    )
    op.create_table(
        "waits",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column(
            "pool",
            sa.String(length=128),
            nullable=False,
            comment="A pool that the waiting lease wants of; * is any pool",
        ),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_waits_lease")),
        sa.PrimaryKeyConstraint("lease", "pool", name=op.f("pk_waits")),
    )
    with op.batch_alter_table("waits", schema=None) as batch_op:
        batch_op.create_index("ix_waits_pool", ["pool"], unique=False)

    op.create_table(
        "resources",
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("file", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=True),
        sa.Column(
            "epoch", sa.BigInteger(), nullable=False, comment="The fencing token: grows with each change of actor"
        ),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column(
            "tags",
            sa.JSON(none_as_null=True),
            nullable=False,
        ),
        sa.Column(
            "properties",
            sa.JSON(none_as_null=True),
            nullable=False,
        ),
        sa.Column("offline_reason", sa.Text(), nullable=True),
        sa.Column("offline_by", sa.String(length=128), nullable=True),
        sa.Column("offline_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("broken_reason", sa.Text(), nullable=True),
        sa.Column("broken_since", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["pool"], ["pools.name"], name=op.f("fk_resources_pool")),
        sa.PrimaryKeyConstraint("pool", "name", name=op.f("pk_resources")),
    )
    with op.batch_alter_table("resources", schema=None) as batch_op:
        batch_op.create_index(
            "ix_resources_grantable",
            ["pool", "name"],
            unique=False,
            postgresql_where=sa.text("state = 'free' AND offline_since IS NULL AND NOT draining"),
            sqlite_where=sa.text("state = 'free' AND offline_since IS NULL AND NOT draining"),
        )

    op.bulk_insert(
        sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger)),
        [{"name": "lease", "value": 0}],
    )
