"""What a notice says: a subject of one line, and a text with what its reader needs to do something about it.

What anybody typed comes in as one line of printable characters, so that it can neither look like a line of ours nor
become a header of a mail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from leasehold.channels import NoticeKind
from leasehold.links import Links
from leasehold.model import Lease
from leasehold.ports import Writing
from leasehold.templates import text_template

LONGEST_LINE = 300
"""In characters, of what anybody typed; a reason can have more."""
LONGEST_REASON = 2000
_MOST_RESOURCES = 50
"""So many are named; of more it says how many."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A letter as it is read. `facts` say the same to programs."""

    subject: str
    body: str
    facts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Form:
    """The templates of one kind of notice; `then` are commands, each with what it is for."""

    subject: str
    lead: str
    then: tuple[tuple[str, str], ...] = ()


_SHOW = ("How it stands", "leasehold show {{ number }}")
_EXTEND = ("Keep it longer", "leasehold extend {{ number }} --by 1h")
_RELEASE = ("Give it back", "leasehold release {{ number }}")
_CANCEL = ("Want it no more", "leasehold cancel {{ number }}")
_LOG = ("What its stages printed", "leasehold logs {{ number }}")

_FORMS: Mapping[NoticeKind, _Form] = {
    NoticeKind.REQUESTED: _Form(
        subject="Lease {{ number }} is requested",
        lead="Lease {{ number }} is requested by {{ owner }}{% if reason %}, and waits: {{ reason }}"
        "{% else %}, and is being prepared{% endif %}.",
        then=(_SHOW, _CANCEL),
    ),
    NoticeKind.DELIVERED: _Form(
        subject="Lease {{ number }} is ready",
        lead="Lease {{ number }} of {{ owner }} is ready.",
        then=(("Connect", "leasehold delivery {{ number }}"), _EXTEND, _RELEASE),
    ),
    NoticeKind.REPLACED: _Form(
        subject="Lease {{ number }} gets something else for what failed",
        lead="Lease {{ number }} of {{ owner }} goes on, with others in the place of what failed: {{ reason }}",
        then=(_SHOW, _LOG),
    ),
    NoticeKind.DEGRADED: _Form(
        subject="Lease {{ number }} has something that is dead",
        lead="Of what lease {{ number }} of {{ owner }} has something fails its livechecks: {{ reason }}",
        then=(_SHOW, _RELEASE),
    ),
    NoticeKind.HELD: _Form(
        subject="Lease {{ number }} waits for a repair",
        lead="Lease {{ number }} of {{ owner }} waits: {{ reason }}",
        then=(_SHOW, _LOG, _CANCEL),
    ),
    NoticeKind.EXPIRING: _Form(
        subject="Lease {{ number }} ends in {{ left }}",
        lead="Lease {{ number }} of {{ owner }} ends in {{ left }}, and what it has goes back.",
        then=(_EXTEND, _RELEASE),
    ),
    NoticeKind.GRACE: _Form(
        subject="Lease {{ number }} has expired, and can be revived until {{ revivable }}",
        lead="The time of lease {{ number }} of {{ owner }} is up. Until {{ revivable }} it keeps what it has, and an"
        " extension revives it; then what it has goes back.",
        then=(_EXTEND, _RELEASE),
    ),
    NoticeKind.FAILED: _Form(
        subject="Lease {{ number }} {{ outcome }}",
        lead="Lease {{ number }} of {{ owner }} {{ outcome }}: {{ reason | default('no reason is known', true) }}",
        then=(_SHOW, _LOG),
    ),
    NoticeKind.ENDED: _Form(
        subject="Lease {{ number }} is over: {{ outcome }}",
        lead="Lease {{ number }} of {{ owner }} is over: {{ outcome }}{% if actor != 'leasehold' %} by {{ actor }}"
        "{% endif %}{% if reason %} ({{ reason }}){% endif %}.",
        then=(_SHOW,),
    ),
}

_BODY = """\
{{ lead }}

{% if description %}For:        {{ description }}
{% endif %}{% if resources %}Resources:  {{ resources }}
{% endif %}{% if until %}Until:      {{ until }}
{% endif %}Happened:   {{ at }}

{% for one in then %}{{ one.label }}:
    {{ one.command }}
{% endfor %}More:
    {{ url }}
    {{ workflow }}
"""

_NAMES = frozenset(
    "number id owner description resources until left revivable outcome actor reason at url workflow lead then".split()
)


def one_line(text: str | None, longest: int = LONGEST_LINE) -> str:
    """A text as one line of printable characters; no such character turns the direction of those after it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def write(writing: Writing, links: Links) -> Text:
    """The letter that a notice becomes."""
    notice, lease = writing.notice, writing.lease
    form = _FORMS[notice.kind]
    values: dict[str, Any] = {
        "number": str(lease.number),
        "id": lease.id,
        "owner": one_line(lease.owner),
        "description": one_line(lease.description),
        "resources": _resources(lease),
        "until": _moment(lease.expires_at),
        "left": _span(notice.expires_at - writing.now) if notice.expires_at else "",
        "revivable": _moment(notice.expires_at),
        "outcome": str(lease.outcome or notice.kind),
        "actor": one_line(notice.actor),
        "reason": one_line(notice.reason, LONGEST_REASON),
        "at": _moment(notice.at),
        "url": links.lease(str(lease.number)),
        "workflow": links.workflow(lease.id, lease.run_id),
    }
    values["lead"] = _filled(form.lead, values)
    values["then"] = [{"label": label, "command": _filled(command, values)} for label, command in form.then]
    about = f": {values['description']}" if lease.description else ""
    shown = ("number", "id", "owner", "description", "resources", "outcome", "reason", "url")
    facts = {name: values[name] for name in shown}
    expires_at = lease.expires_at.astimezone(UTC).isoformat().replace("+00:00", "Z") if lease.expires_at else ""
    return Text(
        subject=one_line(_filled(form.subject, values) + about),
        body=_filled(_BODY, values),
        facts={**facts, "notice": notice.id, "kind": str(notice.kind), "expires_at": expires_at},
    )


def _filled(template: str, values: Mapping[str, Any]) -> str:
    return text_template(template, _NAMES).render(values)


def _resources(lease: Lease) -> str:
    """What a lease has, or had at last, by name."""
    held = [one for one in lease.resources if one.state != "released"] or lease.resources
    names = list(dict.fromkeys(f"{one.pool}/{one.name}" for one in held))
    more = len(names) - _MOST_RESOURCES
    return ", ".join(names[:_MOST_RESOURCES]) + (f" and {more} more" if more > 0 else "")


def _moment(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else ""


def _span(left: timedelta) -> str:
    """A span as people say it, in its two largest units."""
    minutes = max(round(left.total_seconds() / 60), 0)
    parts = [(minutes // 1440, "d"), (minutes % 1440 // 60, "h"), (minutes % 60, "min")]
    return " ".join(f"{many} {unit}" for many, unit in [part for part in parts if part[0]][:2]) or "less than a minute"
