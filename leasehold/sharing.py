"""Keys under which what is given back is kept for the next lease: each counts for its owner alone."""

from __future__ import annotations

import hashlib
import json


def key_of(owner: str, share_key: str | None) -> str | None:
    """The key for an owner, as `selfservice.counted_for` tells owners apart; None where there is none."""
    return None if share_key is None else hashlib.sha256(json.dumps([owner, share_key]).encode()).hexdigest()
