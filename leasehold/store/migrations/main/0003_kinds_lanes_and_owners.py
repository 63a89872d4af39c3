"""Kinds of resources, lanes of the queue, owners of grants"""

import sqlalchemy as sa
from alembic import op

from leasehold.store import catalogue, lanes
from leasehold.store.specs import items_from_json

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

GRANTABLE = "state = 'free' AND offline_since IS NULL AND NOT draining"
OPEN = "closed_at IS NULL"


def upgrade() -> None:
    _add_kinds()
    _add_owners()
    op.create_table(
        "queue",
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column(
            "lane",
            sa.BigInteger(),
            nullable=False,
            comment="Hash of owner and wishes: of those who want the same only the first matters",
        ),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("passed", sa.Integer(), nullable=False, comment="How many were served before it that had come later"),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name=op.f("fk_queue_lease")),
        sa.PrimaryKeyConstraint("lease", name=op.f("pk_queue")),
    )
    with op.batch_alter_table("queue") as batch_op:
        batch_op.create_index("ix_queue_lane", ["lane", sa.literal_column("priority DESC"), "number"])
    _fill_queue()


def _add_kinds() -> None:
    with op.batch_alter_table("resources") as batch_op:
        batch_op.add_column(
            sa.Column(
                "kind",
                sa.BigInteger(),
                nullable=True,
                comment="Hash of pool, tags and properties: those of one kind are alike",
            )
        )
    connection = op.get_bind()
    resources = sa.table("resources", *map(sa.column, ("pool", "name", "kind")), *_json("tags", "properties"))
    for row in connection.execute(sa.select(resources)).all():
        this = sa.update(resources).where(resources.c.pool == row.pool, resources.c.name == row.name)
        connection.execute(this.values(kind=catalogue.kind_of(row.pool, row.tags, row.properties)))
    with op.batch_alter_table("resources") as batch_op:
        batch_op.alter_column("kind", existing_type=sa.BigInteger(), nullable=False)
        batch_op.create_index(
            "ix_resources_free",
            ["kind", "name"],
            postgresql_where=sa.text(GRANTABLE),
            sqlite_where=sa.text(GRANTABLE),
        )


def _add_owners() -> None:
    with op.batch_alter_table("grants") as batch_op:
        batch_op.add_column(sa.Column("owner", sa.String(length=128), nullable=True))
    op.execute("UPDATE grants SET owner = (SELECT owner FROM leases WHERE leases.id = grants.lease)")
    with op.batch_alter_table("grants") as batch_op:
        batch_op.alter_column("owner", existing_type=sa.String(length=128), nullable=False)
        batch_op.create_index("ix_grants_owner", ["pool", "owner", "id"])
        batch_op.create_index(
            "ix_grants_held", ["pool", "owner", "lease"], postgresql_where=sa.text(OPEN), sqlite_where=sa.text(OPEN)
        )


def _fill_queue() -> None:
    connection = op.get_bind()
    names = ("id", "owner", "priority", "number", "waiting", "created_at")
    leases = sa.table("leases", *map(sa.column, names), *_json("wanted", "missing"))
    queue = sa.table("queue", *map(sa.column, ("lease", "lane", "owner", "priority", "number", "since", "passed")))
    for row in connection.execute(sa.select(leases).where(leases.c.waiting)).all():
        items = items_from_json(row.wanted)
        wishes = items if row.missing is None else tuple(lanes.missing(items, row.missing).values())
        connection.execute(
            sa.insert(queue).values(
                lease=row.id,
                lane=lanes.lane(row.owner, wishes),
                owner=row.owner,
                priority=row.priority,
                number=row.number,
                since=row.created_at,
                passed=0,
            )
        )


def _json(*names: str) -> list[sa.ColumnClause[object]]:
    return [sa.column(name, sa.JSON()) for name in names]
