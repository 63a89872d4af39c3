"""Everything that Leasehold raises on purpose: one tree, each error with a code that never changes.

`status` is the HTTP status that belongs to the error's kind; the API only copies it. An error that crosses Temporal
travels as its code and detail and is built again by `from_code`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One place in a request or file that is wrong: `path` like `items[0].count`, or `pools.yaml:12: pools[0].wipe`."""

    path: str
    code: str
    detail: str


class LeaseholdError(Exception):
    """The root. `faults` name the places, where there are any."""

    code = "internal"
    title = "Leasehold failed"
    status = 500

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)


class Malformed(LeaseholdError):
    """Cannot be parsed at all."""

    code, title, status = "malformed", "The request cannot be parsed", 400


class BadFilter(Malformed):
    """A filter with an unknown operator or a malformed value."""

    code, title = "bad_filter", "A filter cannot be understood"


class Unauthenticated(LeaseholdError):
    code, title, status = "unauthenticated", "A valid token is needed", 401


class Refused(LeaseholdError):
    """Understood, and not allowed: policy or quota."""

    code, title, status = "forbidden", "Not allowed", 403


class DurationRefused(Refused):
    code, title = "duration_refused", "The pool's policy does not allow so long a lease"


class ExtensionRefused(Refused):
    code, title = "extension_refused", "The pool's policy does not allow this extension"


class SelfServiceClosed(Refused):
    """Only operators lend now."""

    code, title = "self_service_closed", "Self-service is closed"


class LimitReached(Refused):
    """A user has as much as self-service gives one user; each fault says of what: leases, resources, per_lease."""

    code, title = "limit_reached", "Self-service gives one user no more"


class RequestRefused(Refused):
    """The pool's `admit` hook refused the request."""

    code, title = "request_refused", "The request was refused"


class Duplicate(Refused):
    """The pool's `admit` hook found the same request to be there already."""

    code, title = "duplicate", "The same was requested before"


class CommandRefused(Refused):
    """No rule of the pool lets this command run."""

    code, title = "command_refused", "The pool does not run this command"


class TooManyRequests(LeaseholdError):
    code, title, status = "too_many_requests", "Too many requests", 429


class NotFound(LeaseholdError):
    code, title, status = "not_found", "There is no such thing", 404


class LeaseUnknown(NotFound):
    code, title = "lease_unknown", "There is no such lease"


class PoolUnknown(NotFound):
    code, title = "pool_unknown", "There is no such pool"


class ResourceUnknown(NotFound):
    code, title = "resource_unknown", "There is no such resource"


class TokenUnknown(NotFound):
    code, title = "token_unknown", "There is no such token"


class UserUnknown(NotFound):
    code, title = "user_unknown", "There is no such user"


class Conflict(LeaseholdError):
    """The thing is in a state in which this cannot be done."""

    code, title, status = "conflict", "Not possible in this state", 409


class UserExists(Conflict):
    code, title = "user_exists", "There is such a user already"


class LeaseNotActive(Conflict):
    code, title = "lease_not_active", "The lease is not active"


class NotFree(Conflict):
    code, title = "not_free", "What was asked for is not free now"


class NotReservable(Conflict):
    code, title = "not_reservable", "What was asked for cannot be promised for then"


class LastResource(Conflict):
    code, title = "last_resource", "A lease has at least one resource"


class NotDelivered(Conflict):
    code, title = "not_delivered", "The lease has not been delivered yet"


class ResourceBusy(Conflict):
    code, title = "resource_busy", "The resource is in use"


class OwnedElsewhere(Conflict):
    code, title = "owned_elsewhere", "Another file, or a person, made this one"


class TemporalChanged(Conflict):
    """Records are compared with the workflows of the Temporal that they belong to, or not at all."""

    code, title = "temporal_changed", "This is another Temporal than before"


class CommandRuns(Conflict):
    code, title = "command_runs", "A command uses what the lease has"


class NoCommand(Conflict):
    code, title = "no_command", "The lease has no command"


class CommandOver(Conflict):
    """Whoever meets this error must not start the command."""

    code, title = "command_over", "The command must not begin any more"


class CommandBegun(CommandOver):
    """Whoever began it may still be at it, and alone knows how it ends."""

    code, title = "command_begun", "The command was begun before"


class StaleEpoch(Conflict):
    """Somebody newer has the resource; whoever meets this error must stop."""

    code, title = "stale_epoch", "A newer holder has the resource"


class IllegalTransition(Conflict):
    code, title = "illegal_transition", "That state cannot follow this one"

    def __init__(self, what: str, before: str | None, after: str) -> None:
        super().__init__(f"a {what} cannot go from {before or 'nothing'} to {after}")


class TooLarge(LeaseholdError):
    code, title, status = "too_large", "The body is too large", 413


class Invalid(LeaseholdError):
    """Parsed, and says the wrong thing."""

    code, title, status = "invalid", "The request says something that cannot be", 422


class KeyReused(Invalid):
    code, title = "idempotency_key_reused", "The same Idempotency-Key came with another request"


class Unsatisfiable(Invalid):
    """No state of the inventory could serve the request."""

    code, title = "unsatisfiable", "The pool can never serve this request"


class QuotaExceeded(LeaseholdError):
    code, title, status = "over_quota", "The policy allows no more at once", 403


class Unavailable(LeaseholdError):
    code, title, status = "unavailable", "Try again shortly", 503


def _tree(root: type[LeaseholdError]) -> dict[str, type[LeaseholdError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_code(code: str, detail: str, faults: Sequence[Fault] = ()) -> LeaseholdError:
    """Build the error that has this code again; an unknown code gives the root with that code."""
    kind = _tree(LeaseholdError).get(code)
    if kind is None:
        error = LeaseholdError(detail, faults)
        error.code = code
        return error
    error = kind.__new__(kind)
    LeaseholdError.__init__(error, detail, faults)
    return error
