"""Names in Temporal that several parts must agree on."""

TASK_QUEUE = "leasehold"
"""The task queue of leases, recyclings, and the hooks of pools that name no site."""


def site_queue(site: str) -> str:
    """The task queue of the hooks of one site."""
    return f"site:{site}"


def runner_queue(name: str) -> str:
    """The task queue of the commands for the runners of one name."""
    return f"runner:{name}"


def notice_queue(queue: str) -> str:
    """The task queue of the letters of those whose workflows are on `queue`."""
    return f"{queue}-notices"
