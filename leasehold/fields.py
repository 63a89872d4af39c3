"""The types of fields that pools files and requests share: each refuses what cannot be stored or meant."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from leasehold import durations
from leasehold.errors import LeaseholdError
from leasehold.model import NAME_PATTERN

T = TypeVar("T")

_DEEPEST_JSON = 50


class Strict(BaseModel):
    """Knows its keys and takes no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return durations.parse(str(value) if not isinstance(value, bool) else "")
    except LeaseholdError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": error.detail}) from None


def storable(value: str) -> str:
    """A text without NUL; any other raises pydantic's error."""
    # PostgreSQL cannot store it, and no environment variable can carry it.
    if "\0" in value:
        raise PydanticCustomError("nul", "a text must not contain the NUL character")
    return value


def plain_json(value: T) -> T:
    """A value that is plain JSON and can be stored; any other raises pydantic's error."""
    if _depth(value) > _DEEPEST_JSON:
        raise PydanticCustomError("too_deep", "must not be nested over {most} deep", {"most": _DEEPEST_JSON})
    try:
        written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        written.encode()
    except (TypeError, ValueError) as error:
        raise PydanticCustomError("not_json", "must be plain JSON: {reason}", {"reason": str(error)}) from None
    if "\\u0000" in written or len(written.encode()) > 65536:
        raise PydanticCustomError("not_storable", "must be at most 64 KiB of JSON without NUL characters")
    return value


def _depth(value: object) -> int:
    deepest = 0
    unseen: list[tuple[object, int]] = [(value, 1)]
    while unseen and deepest <= _DEEPEST_JSON:
        here, depth = unseen.pop()
        deepest = max(deepest, depth)
        below = here.values() if isinstance(here, dict) else here if isinstance(here, list) else ()
        unseen.extend((one, depth + 1) for one in below)
    return deepest


Json = Annotated[dict[str, Any], AfterValidator(plain_json)]
Text = Annotated[str, Field(max_length=4096), AfterValidator(storable)]
Word = Annotated[str, AfterValidator(storable)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Tag = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(storable)]
Duration = Annotated[
    timedelta, BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=r"^\d{1,9}[smhd]$")])
]
