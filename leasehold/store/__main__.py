"""`python -m leasehold.store upgrade`: bring both databases to the schema of this version."""

from __future__ import annotations

import sys

from leasehold.settings import Settings
from leasehold.store import migrate


def main() -> int:
    """Upgrade, or say how to."""
    if sys.argv[1:] != ["upgrade"]:
        sys.stderr.write("usage: python -m leasehold.store upgrade\n")
        return 2
    settings = Settings()
    migrate.upgrade(settings.main_url, "main")
    migrate.upgrade(settings.log_url, "logs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
