"""No second index of the queue: all ask the table `queue`; and a stamp of the inventory for those who have none"""

import uuid

import sqlalchemy as sa
from alembic import op

from leasehold.store.catalogue import STAMP

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_leases_queue", table_name="leases")
    facts = sa.table("facts", sa.column("key", sa.String()), sa.column("value", sa.JSON()))
    connection = op.get_bind()
    if connection.execute(sa.select(facts.c.key).where(facts.c.key == STAMP)).first() is None:
        # Without one each process would read the inventory anew for each request, until it changes.
        connection.execute(sa.insert(facts).values(key=STAMP, value=uuid.uuid4().hex))
