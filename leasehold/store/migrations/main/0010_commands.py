"""Commands on leased resources, and the runners that run them"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NOT_ENDED = "ended_at IS NULL"


def upgrade() -> None:
    # SQLite must not make the table anew: others refer to its rows.
    with op.batch_alter_table("leases", recreate="never") as batch_op:
        batch_op.add_column(
            sa.Column(
                "commanded",
                sa.Boolean(),
                nullable=False,
                server_default=sa.false(),
                comment="It ends with a command, see `commands`",
            )
        )
        batch_op.add_column(
            sa.Column(
                "on_end",
                sa.String(length=16),
                nullable=False,
                server_default="free",
                comment="offline: what it has of its first item is kept out",
            )
        )
        batch_op.add_column(sa.Column("on_end_reason", sa.Text(), nullable=True))
    _make_tables()


def _make_tables() -> None:
    op.create_table(
        "commands",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column(
            "spec", sa.JSON(none_as_null=True), nullable=False, comment="It as requested, without its environment"
        ),
        sa.Column("line", sa.Text(), nullable=False, comment="It as people write it"),
        sa.Column("folder", sa.Text(), nullable=True),
        sa.Column(
            "same",
            sa.String(length=64),
            nullable=False,
            comment="Digest of owner, command, folder and pools: equal ones are duplicates",
        ),
        sa.Column("pool", sa.String(length=128), nullable=False, comment="Of the lease's first item: its policy holds"),
        sa.Column(
            "account", sa.String(length=128), nullable=True, comment="As whom it runs; NULL: as the runner itself"
        ),
        sa.Column("runner", sa.String(length=128), nullable=True, comment="The only one that may run it"),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False, comment="What its runner must have"),
        sa.Column("timeout_s", sa.Float(), nullable=True),
        sa.Column("grace_s", sa.Float(), nullable=False),
        sa.Column("output_limit", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column(
            "wanted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Its lease is active: it waits for a runner since then",
        ),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it still waits"),
        sa.Column("runs_on", sa.String(length=128), nullable=True, comment="The runner that was found for it"),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False, comment="How many runners were lost with it"),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=True, comment="When its runner took it up"),
        sa.Column("instance", sa.String(length=64), nullable=True, comment="Which process that was"),
        sa.Column("gone", sa.Text(), nullable=True, comment="Why that process is known to be no more"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True, comment="When it was taken up first"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ending", sa.String(length=16), nullable=True),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("output_bytes", sa.BigInteger(), nullable=True),
        sa.Column("dropped", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_commands_lease")),
        sa.PrimaryKeyConstraint("lease", name=op.f("pk_commands")),
        comment="Commands that run on leased resources",
    )
    for name, columns in (("ix_commands_same", ["same"]), ("ix_commands_open", ["state"])):
        op.create_index(name, "commands", columns, postgresql_where=sa.text(NOT_ENDED), sqlite_where=sa.text(NOT_ENDED))
    op.create_index("ix_commands_pool", "commands", ["pool", "lease"])
    op.create_table(
        "envelopes",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False, comment="Of the request that it came with"),
        sa.Column("env", sa.JSON(none_as_null=True), nullable=False, comment="Secret: the environment of its command"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lease", "digest", name=op.f("pk_envelopes")),
        comment="What of a request must not be in Temporal's history; deleted with the command's end, or never claimed",
    )
    op.create_table(
        "runners",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("instance", sa.String(length=64), nullable=False, comment="One process of it; several share a name"),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False, comment="How many commands it runs at once"),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("locks", sa.String(length=64), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=False),
        sa.Column("processes", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", "instance", name=op.f("pk_runners")),
        comment="Processes that run commands, as long as they are heard of",
    )
