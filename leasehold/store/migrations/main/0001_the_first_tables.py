"""The first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_alerts")),
        comment="What stands until somebody has seen to it",
    )
    op.create_table(
        "answers",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column(
            "key", sa.String(length=32), nullable=False, comment="Digest of what tells a call from its repetition"
        ),
        sa.Column("use", sa.String(length=32), nullable=False, comment="Digest of what the key was used for"),
        sa.Column(
            "refusal",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="The error that answered it, if it was refused",
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lease", "key", name=op.f("pk_answers")),
        comment="Calls that steer a lease: one that comes twice counts once, and is answered alike",
    )
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
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
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
        "files",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_files")),
    )
    op.create_table(
        "heartbeats",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("every_s", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.DateTime(timezone=True), nullable=False, comment="Past it the lease is lost"),
        sa.Column("lost", sa.Boolean(), nullable=False, comment="It was missed: no heartbeat revives the lease"),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True, comment="When its workflow was told"),
        sa.PrimaryKeyConstraint("lease", name=op.f("pk_heartbeats")),
        comment="Leases that end unless their holder is heard of; apart from `leases`, because it is written so often",
    )
    with op.batch_alter_table("heartbeats", schema=None) as batch_op:
        batch_op.create_index("ix_heartbeats_by", ["by"], unique=False)

    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("cc", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("wanted", sa.JSON(none_as_null=True), nullable=False, comment="The items as requested"),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("duration_s", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column(
            "waiting",
            sa.Boolean(),
            nullable=False,
            comment="In the queue: for all that it wants, or for what is missing",
        ),
        sa.Column(
            "missing",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="The items of which one resource each is still to be replaced",
        ),
        sa.Column("replaced", sa.Integer(), nullable=False, comment="How many failed resources were replaced"),
        sa.Column("blocked", sa.Text(), nullable=True, comment="Why its preparation does not go on"),
        sa.Column("warned", sa.Integer(), nullable=False, comment="How many of the warnings before its end were given"),
        sa.Column(
            "grace_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Expired, and until then it can be revived",
        ),
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
            postgresql_where=sa.text("waiting"),
            sqlite_where=sa.text("waiting"),
        )
        batch_op.create_index("ix_leases_state_number", ["state", "number"], unique=False)

    op.create_table(
        "limiters",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("file", sa.String(length=128), nullable=False, comment="The pools file that made it"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_limiters")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "kind", sa.String(length=16), nullable=False, comment="granted: signal the workflow; recycle: start it"
        ),
        sa.Column(
            "lease", sa.String(length=400), nullable=False, comment="Or the id of another workflow, which is signalled"
        ),
        sa.Column("message", sa.JSON(none_as_null=True), nullable=True),
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
        sa.Column(
            "asked",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="What it asked for, if it was refused; a lease has that itself",
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lease", name=op.f("pk_requests")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("resource", sa.String(length=128), nullable=False, comment="Empty: for all resources of the lease"),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("hook", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column(
            "host",
            sa.String(length=255),
            nullable=False,
            comment="For people; the next three tell where else it may be alive",
        ),
        sa.Column("locks", sa.String(length=64), nullable=False, comment="The identity of the lock folder"),
        sa.Column("boot", sa.String(length=64), nullable=False, comment="Of the kernel's start"),
        sa.Column("processes", sa.String(length=64), nullable=False, comment="The namespace of its processes"),
        sa.Column(
            "losses",
            sa.Integer(),
            nullable=False,
            comment="How many runs of this attempt went with their workers before",
        ),
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
            "lease",
            "pool",
            "resource",
            "epoch",
            "stage",
            "hook",
            "attempt",
            "losses",
            name=op.f("uq_runs_lease_pool_resource_epoch_stage_hook_attempt_losses"),
        ),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index("ix_runs_lease", ["lease", "id"], unique=False)
        batch_op.create_index(
            "ix_runs_open",
            ["pool", "resource"],
            unique=False,
            postgresql_where=sa.text("ended_at IS NULL"),
            sqlite_where=sa.text("ended_at IS NULL"),
        )
        batch_op.create_index("ix_runs_resource", ["pool", "resource", "id"], unique=False)

    op.create_table(
        "slots",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("limiter", sa.String(length=128), nullable=False),
        sa.Column("workflow", sa.String(length=400), nullable=False, comment="Who has it, or waits for it"),
        sa.Column("key", sa.String(length=400), nullable=False, comment="For which run of a hook"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slots")),
        sa.UniqueConstraint("workflow", "key", name=op.f("uq_slots_workflow_key")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("slots", schema=None) as batch_op:
        batch_op.create_index("ix_slots_limiter", ["limiter", "id"], unique=False)

    op.create_table(
        "specs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pool", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_specs")),
        sa.UniqueConstraint("pool", "digest", name=op.f("uq_specs_pool_digest")),
        comment="Append-only: a lease keeps the hook settings of its grant",
    )
    op.create_table(
        "tokens",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=16), nullable=False, comment="The public part of the token's string"),
        sa.Column(
            "digest",
            sa.String(length=64),
            nullable=False,
            comment="SHA-256 of the token's string, which is stored nowhere",
        ),
        sa.Column("owner", sa.String(length=128), nullable=False, comment="The user"),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("scopes", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("made_with", sa.String(length=16), nullable=True, comment="The token that it was made with"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.String(length=128), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True, comment="To the minute"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_tokens")),
        sa.UniqueConstraint("id", name=op.f("uq_tokens_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.create_index("ix_tokens_made_with", ["made_with"], unique=False)
        batch_op.create_index("ix_tokens_owner_number", ["owner", "number"], unique=False)

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
        sa.Column(
            "due",
            sa.JSON(none_as_null=True),
            nullable=False,
            comment="The stages that it has to go through for this lease",
        ),
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
        batch_op.create_index("ix_grants_resource", ["pool", "resource", "id"], unique=False)
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
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("properties", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("offline_reason", sa.Text(), nullable=True),
        sa.Column("offline_by", sa.String(length=128), nullable=True),
        sa.Column("offline_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("broken_reason", sa.Text(), nullable=True),
        sa.Column("broken_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "prepared", sa.String(length=64), nullable=True, comment="Digest of the stages that it went through ahead"
        ),
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
