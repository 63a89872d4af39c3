"""The types of fields that hooks of several drivers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from leasehold import templates
from leasehold.fields import storable

CALL = frozenset({"lease", "resource", "stage", "attempt"})
"""What templates can use of what a hook is called with."""

LONGEST = 8192
"""In characters, of a URL, a header or an expression, before it is filled in."""


def compiles(compile: Callable[[str, frozenset[str]], object], names: frozenset[str]) -> AfterValidator:
    """A field that is a template over these variables."""

    def check(source: str) -> str:
        try:
            compile(source, names)
        except templates.BadTemplate as error:
            raise PydanticCustomError("template", "{reason}", {"reason": str(error)}) from None
        return source

    return AfterValidator(check)


def _verify(value: Any) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and 0 < len(value) <= 4096):
        return value if isinstance(value, bool) else storable(value)
    raise PydanticCustomError("verify", "must be true, false, or the path of a file with certificates")


Template = Annotated[str, Field(max_length=LONGEST), AfterValidator(storable)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(storable)]
Verify = Annotated[
    bool | str,
    PlainValidator(_verify, json_schema_input_type=bool | str),
    Field(description="Whether to check the server's certificate; or a file with those to trust"),
]
