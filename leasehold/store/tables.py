"""The tables: `metadata` for inventory, grants, queue, leases and events; `logs_metadata` for what hooks printed.

The logs live in a database of their own, so that they never block allocation.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)


class Utc(TypeDecorator[datetime]):
    """An aware UTC time on every database; SQLite, which has no time zones, keeps it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Not JSONB: what was written is read back to the letter, 1e300 and the order of keys included.
Json = JSON(none_as_null=True)
Serial = BigInteger().with_variant(Integer(), "sqlite")

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
metadata = MetaData(naming_convention=NAMING)
logs_metadata = MetaData(naming_convention=NAMING)


def _column(name: str, kind: Any, *rest: Any, nullable: bool = False, **more: Any) -> Column[Any]:
    """A column that must be filled unless said otherwise."""
    return Column(name, kind, *rest, nullable=nullable, **more)


counters = Table("counters", metadata, Column("name", String(64), primary_key=True), _column("value", BigInteger))

facts = Table(
    "facts",
    metadata,
    Column("key", String(64), primary_key=True),
    _column("value", Json),
    comment="What the service must remember of itself: which Temporal it belongs to, say",
)

alerts = Table(
    "alerts",
    metadata,
    Column("key", String(64), primary_key=True),
    _column("since", Utc),
    _column("detail", Text),
    comment="What stands until somebody has seen to it",
)

files = Table(
    "files",
    metadata,
    Column("name", String(128), primary_key=True),
    _column("digest", String(64)),
    _column("applied_at", Utc),
)

specs = Table(
    "specs",
    metadata,
    Column("id", Serial, primary_key=True),
    _column("pool", String(128)),
    _column("digest", String(64)),
    _column("spec", Json),
    UniqueConstraint("pool", "digest"),
    comment="Append-only: a lease keeps the hook settings of its grant",
)

pools = Table(
    "pools",
    metadata,
    Column("name", String(128), primary_key=True),
    _column("file", String(128), nullable=True, comment="The pools file that made it; NULL: made by PUT"),
    _column("spec", Serial, ForeignKey("specs.id")),
    _column("priority", Integer),
    _column("draining", Boolean, comment="Left its file while leased; deleted when the last resource is free"),
    _column("paused_reason", Text, nullable=True, comment="Nothing of it is granted, until an operator resumes it"),
    _column("paused_by", String(128), nullable=True),
    _column("paused_since", Utc, nullable=True),
    _column("emptied", Boolean, server_default=false(), comment="Paused, and what it has made is deleted once free"),
)

resources = Table(
    "resources",
    metadata,
    Column("pool", String(128), ForeignKey("pools.name"), primary_key=True),
    Column("name", String(128), primary_key=True),
    _column("file", String(128), nullable=True),
    _column("state", String(16)),
    _column("stage", String(16), nullable=True),
    _column("epoch", BigInteger, comment="The fencing token: grows with each change of actor"),
    _column("draining", Boolean),
    _column("tags", Json),
    _column("properties", Json),
    _column("kind", BigInteger, comment="Hash of pool, tags and properties: those of one kind are alike"),
    _column("offline_reason", Text, nullable=True),
    _column("offline_by", String(128), nullable=True),
    _column("offline_since", Utc, nullable=True),
    _column("broken_reason", Text, nullable=True),
    _column("broken_since", Utc, nullable=True),
    _column("prepared", String(64), nullable=True, comment="Digest of the stages that it went through ahead"),
    _column("spec", BigInteger, nullable=True, comment="With which its pool has made it; it was registered otherwise"),
    _column("suspect", Boolean, server_default=false(), comment="Its last livecheck failed"),
    _column("share_key", String(300), nullable=True, comment="It is free, and kept for who comes with this key"),
    _column("kept_until", Utc, nullable=True),
)
SHARED = "share_key IS NOT NULL"
Index(
    "ix_resources_share_key",
    resources.c.share_key,
    postgresql_where=text(SHARED),
    sqlite_where=text(SHARED),
)
GRANTABLE = "state = 'free' AND offline_since IS NULL AND NOT draining AND NOT suspect AND share_key IS NULL"
Index(
    "ix_resources_grantable",
    resources.c.pool,
    resources.c.name,
    postgresql_where=text(GRANTABLE),
    sqlite_where=text(GRANTABLE),
)
Index(
    "ix_resources_free",
    resources.c.kind,
    resources.c.name,
    postgresql_where=text(GRANTABLE),
    sqlite_where=text(GRANTABLE),
)

instances = Table(
    "instances",
    metadata,
    Column("pool", String(128), primary_key=True),
    Column("name", String(128), primary_key=True),
    _column("number", BigInteger, nullable=True, comment="Its own for ever; NULL: a listing found it"),
    _column("place", Integer, nullable=True, comment="The lowest that was free in its pool"),
    _column("counters", Json, comment="Its numbers of named counters"),
    _column("created_at", Utc),
    _column("ready_at", Utc, nullable=True, comment="When it could be granted first"),
    _column("free_since", Utc, nullable=True),
    _column("first_granted_at", Utc, nullable=True),
    _column("uses", Integer, comment="How many leases have used it"),
    _column("trouble", Text, nullable=True, comment="Why it is not deleted yet"),
    _column("data", LargeBinary, nullable=True, comment="What `create` printed: a secret of whoever holds it"),
    UniqueConstraint("pool", "place"),
    comment="What is known of resources that pools make, beside what is known of all",
)

counted = Table(
    "counted",
    metadata,
    Column("counter", String(64), primary_key=True),
    Column("value", Integer, primary_key=True, autoincrement=False),
    _column("pool", String(128)),
    _column("name", String(128)),
    comment="Numbers of named counters that are taken, by resources of any pool",
)
Index("ix_counted_pool_name", counted.c.pool, counted.c.name)

growth = Table(
    "growth",
    metadata,
    Column("pool", String(128), primary_key=True),
    _column("starts", Integer, comment="How many creations have ended"),
    _column("successes", Integer),
    _column("seconds", Float, comment="How long those took that succeeded, together"),
    _column("failures", Integer, comment="How many have failed since the last success"),
    _column("retry_at", Utc, nullable=True, comment="After failures none begins before"),
    _column("last_start_at", Utc, nullable=True),
    _column("last_end_at", Utc, nullable=True),
    _column("last_success_at", Utc, nullable=True),
    _column("trouble", Text, nullable=True, comment="Why the last one failed"),
    _column("first_grants", Integer, comment="Of how many resources it is known how long they waited for a holder"),
    _column("first_grant_seconds", Float),
    _column("list_at", Utc, nullable=True, comment="When it is due to be listed again"),
    _column("list_trouble", Text, nullable=True),
    _column("last_listing", String(300), nullable=True, comment="What of it was taken note of"),
    comment="How creations in a dynamic pool go",
)

checks = Table(
    "checks",
    metadata,
    Column("pool", String(128), primary_key=True),
    Column("name", String(128), primary_key=True),
    _column("due_at", Utc),
    _column("begun_at", Utc, nullable=True, comment="One is under way since then, unless it is lost"),
    _column("failures", Integer, comment="How many livechecks in a row have failed"),
    _column("trouble", Text, nullable=True),
    _column("failed_since", Utc, nullable=True),
    comment="Livechecks of resources",
)
Index("ix_checks_due", checks.c.pool, checks.c.due_at)

strays = Table(
    "strays",
    metadata,
    Column("pool", String(128), primary_key=True),
    Column("name", String(128), primary_key=True),
    _column("since", Utc),
    comment="What the last listing of a pool has found and nobody knows",
)

limiters = Table(
    "limiters",
    metadata,
    Column("name", String(128), primary_key=True),
    _column("size", Integer),
    _column("file", String(128), comment="The pools file that made it"),
)

slots = Table(
    "slots",
    metadata,
    Column("id", Serial, primary_key=True),
    _column("limiter", String(128)),
    _column("workflow", String(400), comment="Who has it, or waits for it"),
    _column("key", String(400), comment="For which run of a hook"),
    _column("at", Utc),
    _column("taken_at", Utc, nullable=True),
    UniqueConstraint("workflow", "key"),
    sqlite_autoincrement=True,
)
Index("ix_slots_limiter", slots.c.limiter, slots.c.id)

requests = Table(
    "requests",
    metadata,
    Column("lease", String(64), primary_key=True, comment="Derived from the principal and the Idempotency-Key"),
    _column("principal", String(128)),
    _column("digest", String(64), comment="Of the body: the same key with another body is refused"),
    _column("refusal", Json, nullable=True, comment="The error that answered it, if it was refused"),
    _column("asked", Json, nullable=True, comment="What it asked for, if it was refused; a lease has that itself"),
    _column("at", Utc),
)

leases = Table(
    "leases",
    metadata,
    Column("id", String(64), primary_key=True),
    _column("number", BigInteger, unique=True),
    _column("state", String(16)),
    _column("outcome", String(16), nullable=True),
    _column("error", Json, nullable=True),
    _column("principal", String(128)),
    _column("owner", String(128)),
    _column("cc", Json),
    _column("description", Text, nullable=True),
    _column("wanted", Json, comment="The items as requested"),
    _column("priority", Integer),
    _column("duration_s", BigInteger),
    _column("run_id", String(64)),
    _column("waiting", Boolean, comment="In the queue: for all that it wants, or for what is missing"),
    _column("missing", Json, nullable=True, comment="The items of which one resource each is still to be replaced"),
    _column("replaced", Integer, comment="How many failed resources were replaced"),
    _column("blocked", Text, nullable=True, comment="Why its preparation does not go on"),
    _column("warned", Integer, comment="How many of the warnings before its end were given"),
    _column("grace_until", Utc, nullable=True, comment="Expired, and until then it can be revived"),
    _column("start_at", Utc, nullable=True, comment="A reservation: granted then, and not before"),
    _column("wait_until", Utc, nullable=True, comment="It fails if it still waits then"),
    _column("ticket", Text, nullable=True, comment="A URL that an admit hook gave it"),
    _column(
        "self_service",
        Boolean,
        server_default=false(),
        comment="Requested by one who is no operator: the rules for self-service hold",
    ),
    _column(
        "unverified",
        Boolean,
        server_default=false(),
        comment="Requested without a token: the owner is what somebody said",
    ),
    _column(
        "transfers",
        Integer,
        server_default="0",
        comment="How often it got another owner: its token is a new one then",
    ),
    _column("share_key", String(128), nullable=True, comment="Who may have again what was given back under it"),
    _column(
        "degraded", Json, nullable=True, comment="Its resources that fail their livechecks: pool, name, reason, since"
    ),
    _column("commanded", Boolean, server_default=false(), comment="It ends with a command, see `commands`"),
    _column("on_end", String(16), server_default="free", comment="offline: what it has of its first item is kept out"),
    _column("on_end_reason", Text, nullable=True),
    _column("notify", Json, nullable=True, comment="Whom its request wants told beside owner and cc; false: no person"),
    _column("created_at", Utc),
    _column("granted_at", Utc, nullable=True),
    _column("active_at", Utc, nullable=True),
    _column("expires_at", Utc, nullable=True),
    _column("ended_at", Utc, nullable=True),
    CheckConstraint("(state = 'ended') = (ended_at IS NOT NULL)", name="ended_at"),
    CheckConstraint("state <> 'ended' OR outcome IS NOT NULL", name="outcome"),
)
Index("ix_leases_state_number", leases.c.state, leases.c.number)
Index("ix_leases_owner_number", leases.c.owner, leases.c.number)
TAKEN = "self_service AND ended_at IS NULL"
Index("ix_leases_self_service", leases.c.owner, postgresql_where=text(TAKEN), sqlite_where=text(TAKEN))

answers = Table(
    "answers",
    metadata,
    Column("lease", String(64), primary_key=True),
    Column("key", String(32), primary_key=True, comment="Digest of what tells a call from its repetition"),
    _column("use", String(32), comment="Digest of what the key was used for"),
    _column("refusal", Json, nullable=True, comment="The error that answered it, if it was refused"),
    _column("at", Utc),
    comment="Calls that steer a lease: one that comes twice counts once, and is answered alike",
)

queue = Table(
    "queue",
    metadata,
    Column("lease", String(64), ForeignKey("leases.id"), primary_key=True),
    _column("lane", BigInteger, comment="Hash of owner and wishes: of those who want the same only the first matters"),
    _column("owner", String(128)),
    _column("priority", Integer),
    _column("number", BigInteger),
    _column("since", Utc),
    _column("passed", Integer, comment="How many were served before it that had come later"),
    _column("start_at", Utc, nullable=True, comment="A reservation: not served before"),
)
Index("ix_queue_lane", queue.c.lane, queue.c.priority.desc(), queue.c.number)
RESERVED = "start_at IS NOT NULL"
Index("ix_queue_reserved", queue.c.start_at, postgresql_where=text(RESERVED), sqlite_where=text(RESERVED))

waits = Table(
    "waits",
    metadata,
    Column("lease", String(64), ForeignKey("leases.id"), primary_key=True),
    Column("pool", String(128), primary_key=True, comment="A pool that the waiting lease wants of; * is any pool"),
)
Index("ix_waits_pool", waits.c.pool)

promises = Table(
    "promises",
    metadata,
    Column("lease", String(64), ForeignKey("leases.id"), primary_key=True),
    Column("pool", String(128), primary_key=True),
    Column("resource", String(128), primary_key=True),
    _column("item", Integer),
    _column("begins", Utc),
    _column("ends", Utc, comment="When it will be free again, as far as can be foreseen"),
    comment="Which resources a reservation will be given; gone once it is granted",
)
Index("ix_promises_resource", promises.c.pool, promises.c.resource)

shared = Table(
    "shared",
    metadata,
    Column("lease", String(64), ForeignKey("leases.id"), primary_key=True),
    Column("pool", String(128), primary_key=True),
    _column("data", LargeBinary, comment="A secret: what a deliver hook for the whole lease printed"),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("lease", String(64), primary_key=True),
    _column("every_s", BigInteger),
    _column("by", Utc, comment="Past it the lease is lost"),
    _column("lost", Boolean, comment="It was missed: no heartbeat revives the lease"),
    _column("told_at", Utc, nullable=True, comment="When its workflow was told"),
    comment="Leases that end unless their holder is heard of; apart from `leases`, because it is written so often",
)
Index("ix_heartbeats_by", heartbeats.c.by)

grants = Table(
    "grants",
    metadata,
    Column("id", Serial, primary_key=True),
    _column("lease", String(64), ForeignKey("leases.id")),
    _column("owner", String(128)),
    _column("pool", String(128)),
    _column("resource", String(128)),
    _column("epoch", BigInteger),
    _column("spec", Serial, ForeignKey("specs.id")),
    _column("item", Integer),
    _column("role", String(128), nullable=True),
    _column("due", Json, comment="The stages that it has to go through for this lease"),
    _column("stage", String(16), nullable=True),
    _column("attempt", Integer, nullable=True),
    _column("granted_at", Utc),
    _column("ready_at", Utc, nullable=True),
    _column("closed_at", Utc, nullable=True),
    _column("data", LargeBinary, nullable=True, comment="What `deliver` printed: a secret of the holder"),
)
OPEN = "closed_at IS NULL"
Index(
    "uq_grants_open",
    grants.c.pool,
    grants.c.resource,
    unique=True,
    postgresql_where=text(OPEN),
    sqlite_where=text(OPEN),
)
Index("ix_grants_lease", grants.c.lease)
Index("ix_grants_owner", grants.c.pool, grants.c.owner, grants.c.id)
Index(
    "ix_grants_held",
    grants.c.pool,
    grants.c.owner,
    grants.c.lease,
    postgresql_where=text(OPEN),
    sqlite_where=text(OPEN),
)
Index("ix_grants_resource", grants.c.pool, grants.c.resource, grants.c.id)

LEASE_WIDE = ""
"""What stands for a resource in a run for all of a lease's."""

runs = Table(
    "runs",
    metadata,
    Column("id", Serial, primary_key=True),
    _column("lease", String(64)),
    _column("pool", String(128)),
    _column("resource", String(128), comment="Empty: for all resources of the lease"),
    _column("epoch", BigInteger),
    _column("stage", String(16)),
    _column("hook", Integer),
    _column("attempt", Integer),
    _column("host", String(255), comment="For people; the next three tell where else it may be alive"),
    _column("locks", String(64), comment="The identity of the lock folder"),
    _column("boot", String(64), comment="Of the kernel's start"),
    _column("processes", String(64), comment="The namespace of its processes"),
    _column("losses", Integer, comment="How many runs of this attempt went with their workers before"),
    _column("started_at", Utc),
    _column("deadline", Utc, comment="Past it no process of the run can be alive, whatever became of its worker"),
    _column("ended_at", Utc, nullable=True),
    _column("ending", String(16), nullable=True),
    _column("code", Integer, nullable=True),
    _column("detail", Text, nullable=True),
    UniqueConstraint("lease", "pool", "resource", "epoch", "stage", "hook", "attempt", "losses"),
    sqlite_autoincrement=True,
)
UNFINISHED = "ended_at IS NULL"
Index("ix_runs_open", runs.c.pool, runs.c.resource, postgresql_where=text(UNFINISHED), sqlite_where=text(UNFINISHED))
Index("ix_runs_lease", runs.c.lease, runs.c.id)
Index("ix_runs_resource", runs.c.pool, runs.c.resource, runs.c.id)
Index("ix_runs_pool", runs.c.pool, runs.c.stage, runs.c.id)

commands = Table(
    "commands",
    metadata,
    Column("lease", String(64), ForeignKey("leases.id"), primary_key=True),
    _column("spec", Json, comment="It as requested, without its environment"),
    _column("line", Text, comment="It as people write it"),
    _column("folder", Text, nullable=True),
    _column("same", String(64), comment="Digest of owner, command, folder and pools: equal ones are duplicates"),
    _column("pool", String(128), comment="Of the lease's first item: its policy holds"),
    _column("account", String(128), nullable=True, comment="As whom it runs; NULL: as the runner itself"),
    _column("runner", String(128), nullable=True, comment="The only one that may run it"),
    _column("labels", Json, comment="What its runner must have"),
    _column("timeout_s", Float, nullable=True),
    _column("grace_s", Float),
    _column("output_limit", BigInteger),
    _column("state", String(16)),
    _column("wanted_at", Utc, nullable=True, comment="Its lease is active: it waits for a runner since then"),
    _column("reason", Text, nullable=True, comment="Why it still waits"),
    _column("runs_on", String(128), nullable=True, comment="The runner that was found for it"),
    _column("attempt", Integer),
    _column("losses", Integer, comment="How many runners were lost with it"),
    _column("begun_at", Utc, nullable=True, comment="When its runner took it up"),
    _column("instance", String(64), nullable=True, comment="Which process that was"),
    _column("gone", Text, nullable=True, comment="Why that process is known to be no more"),
    _column("started_at", Utc, nullable=True, comment="When it was taken up first"),
    _column("ended_at", Utc, nullable=True),
    _column("ending", String(16), nullable=True),
    _column("code", Integer, nullable=True),
    _column("detail", Text, nullable=True),
    _column("output_bytes", BigInteger, nullable=True),
    _column("dropped", BigInteger, nullable=True),
    comment="Commands that run on leased resources",
)
NOT_ENDED = "ended_at IS NULL"
Index("ix_commands_same", commands.c.same, postgresql_where=text(NOT_ENDED), sqlite_where=text(NOT_ENDED))
Index("ix_commands_open", commands.c.state, postgresql_where=text(NOT_ENDED), sqlite_where=text(NOT_ENDED))
Index("ix_commands_pool", commands.c.pool, commands.c.lease)

envelopes = Table(
    "envelopes",
    metadata,
    Column("lease", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True, comment="Of the request that it came with"),
    _column("env", Json, comment="Secret: the environment of its command, until that has ended"),
    _column("secrets", Json, nullable=True, comment="For its hooks and its command"),
    _column("at", Utc),
    comment="What of a request must not be in Temporal's history; deleted once what it had is recycled",
)

runners = Table(
    "runners",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("instance", String(64), primary_key=True, comment="One process of it; several share a name"),
    _column("labels", Json),
    _column("slots", Integer, comment="How many commands it runs at once"),
    _column("host", String(255)),
    _column("locks", String(64)),
    _column("boot", String(64)),
    _column("processes", String(64)),
    _column("started_at", Utc),
    _column("seen_at", Utc),
    comment="Processes that run commands, as long as they are heard of",
)

tokens = Table(
    "tokens",
    metadata,
    Column("number", Serial, primary_key=True),
    _column("id", String(16), unique=True, comment="The public part of the token's string"),
    _column("digest", String(64), comment="SHA-256 of the token's string, which is stored nowhere"),
    _column("owner", String(128), comment="The user"),
    _column("role", String(16)),
    _column("scopes", Json),
    _column("label", Text, nullable=True),
    _column("created_at", Utc),
    _column("created_by", String(128)),
    _column("made_with", String(16), nullable=True, comment="The token that it was made with"),
    _column("expires_at", Utc),
    _column("revoked_at", Utc, nullable=True),
    _column("revoked_by", String(128), nullable=True),
    _column("last_used_at", Utc, nullable=True, comment="To the minute"),
    sqlite_autoincrement=True,
)
Index("ix_tokens_owner_number", tokens.c.owner, tokens.c.number)
Index("ix_tokens_made_with", tokens.c.made_with)

users = Table(
    "users",
    metadata,
    Column("name", String(128), primary_key=True),
    _column("role", String(16)),
    _column("password", Text, comment="Argon2's hash, with its salt and settings"),
    _column("created_at", Utc),
    _column("created_by", String(128)),
    _column("password_at", Utc, comment="When the password was set"),
    _column("disabled_at", Utc, nullable=True, comment="From then on nobody logs in"),
    _column("disabled_by", String(128), nullable=True),
    comment="Who has a password; a token can have a user without one",
)

events = Table(
    "events",
    metadata,
    Column("id", Serial, primary_key=True),
    _column("at", Utc),
    _column("kind", String(32)),
    _column("lease", String(64), nullable=True),
    _column("pool", String(128), nullable=True),
    _column("resource", String(128), nullable=True),
    _column("actor", String(128), nullable=True),
    _column("reason", Text, nullable=True),
    _column("data", Json),
    sqlite_autoincrement=True,
)
Index("ix_events_lease", events.c.lease, events.c.id)
Index("ix_events_resource", events.c.pool, events.c.resource, events.c.id)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Serial, primary_key=True),
    _column("kind", String(16), comment="granted: signal the workflow; tend: that of a pool; else: start one"),
    _column("lease", String(400), comment="Or the id of another workflow, which is signalled"),
    _column("message", Json, nullable=True),
    _column("at", Utc),
    _column("delivered_at", Utc, nullable=True),
    _column("trouble", Text, nullable=True, comment="Why it was not delivered yet"),
    sqlite_autoincrement=True,
)
UNDELIVERED = "delivered_at IS NULL"
Index("ix_outbox_due", outbox.c.id, postgresql_where=text(UNDELIVERED), sqlite_where=text(UNDELIVERED))

outputs = Table(
    "outputs",
    logs_metadata,
    Column("lease", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    _column("offset", BigInteger, comment="So many bytes of frames are here"),
    _column("closed", Boolean, comment="Nothing more comes"),
    _column("at", Utc),
    comment="How far the output of commands has come",
)
Index("ix_outputs_at", outputs.c.at)

logs = Table(
    "logs",
    logs_metadata,
    Column("id", Serial, primary_key=True),
    _column("at", Utc),
    _column("run", BigInteger, nullable=True, comment="NULL: said before the hook began"),
    _column("lease", String(64)),
    _column("pool", String(128)),
    _column("resource", String(128)),
    _column("epoch", BigInteger),
    _column("stage", String(16)),
    _column("attempt", Integer),
    _column("stream", String(16)),
    _column("data", LargeBinary),
    sqlite_autoincrement=True,
)
Index("ix_logs_lease", logs.c.lease, logs.c.id)
Index("ix_logs_run", logs.c.run, logs.c.id)
NO_LEASE = "lease = ''"
Index(
    "ix_logs_resource",
    logs.c.pool,
    logs.c.resource,
    logs.c.id,
    postgresql_where=text(NO_LEASE),
    sqlite_where=text(NO_LEASE),
)
Index("ix_logs_pool_at", logs.c.pool, logs.c.at)
