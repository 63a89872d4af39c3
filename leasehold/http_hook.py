"""What a hook of the driver `http` says: a request made of templates, and what its answer must be like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_serializer, model_validator
from pydantic_core import PydanticCustomError

from leasehold import durations, templates
from leasehold.fields import Duration, Strict, plain_json, storable
from leasehold.hook_fields import CALL, FilePath, Template, Verify, compiles

VARIABLES = CALL | {"files", "secrets"}
"""What every template can use."""

ANSWER = frozenset({"status", "headers", "json", "text"})
"""What those can use besides that come after an answer, and are about it."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_NOT_YOURS = {"connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _strings_compile(value: Any) -> Any:
    """JSON whose strings are all templates, its keys none."""
    unseen: list[tuple[str, object]] = [("", value)]
    while unseen:
        place, here = unseen.pop()
        if isinstance(here, str):
            try:
                templates.text_template(here, VARIABLES)
            except templates.BadTemplate as error:
                reason = f"{place}: {error}" if place else str(error)
                raise PydanticCustomError("template", "{reason}", {"reason": reason}) from None
        elif isinstance(here, list):
            unseen.extend((f"{place}[{number}]", part) for number, part in enumerate(here))
        elif isinstance(here, dict):
            unseen.extend((f"{place}.{key}" if place else key, part) for key, part in here.items())
    return value


def _headers(headers: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    for name in headers:
        if not _HEADER.fullmatch(name):
            raise PydanticCustomError("header", "{name} cannot be the name of a header", {"name": repr(name[:80])})
        if name.lower() in _NOT_YOURS:
            raise PydanticCustomError("header", "the header {name} is not for a hook to set", {"name": name})
        if name.lower() in seen:
            raise PydanticCustomError("duplicate", "the header {name} is there twice", {"name": name})
        seen.add(name.lower())
    return headers


def _files(files: dict[str, str]) -> dict[str, str]:
    for name in files:
        if not _VARIABLE.fullmatch(name):
            raise PydanticCustomError("variable", "{name} cannot be the name of a variable", {"name": repr(name[:80])})
    return files


LongText = Annotated[str, Field(max_length=templates.LONGEST), AfterValidator(storable)]
Status = Annotated[int, Field(ge=100, le=599)]
Statuses = Annotated[
    list[Status],
    Field(min_length=1, max_length=100),
    BeforeValidator(
        lambda value: value if isinstance(value, list) else [value], json_schema_input_type=Status | list[Status]
    ),
]


class UntilFile(Strict):
    """What to wait for after the request."""

    url: Annotated[Template, compiles(templates.url_template, VARIABLES | ANSWER)] | None = Field(
        default=None, description="What to GET; the request's own URL if not given"
    )
    every: Duration = Field(default=timedelta(seconds=5), description="From one answer to the next request")
    expect: Statuses | None = Field(default=None, description="The status or statuses to expect; any 2xx if not given")
    holds: Annotated[Template, compiles(templates.expression, VARIABLES | ANSWER)] = Field(
        description="The expression that must become true, over status, headers, json and text of the answer"
    )

    @field_serializer("every")
    def _in_words(self, every: timedelta) -> str:
        return durations.render(every)


class HttpFile(Strict):
    """A request, each string of which is a template."""

    url: Annotated[Template, compiles(templates.url_template, VARIABLES)] = Field(
        description="http:// or https://, a host, and more"
    )
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] | None = Field(
        default=None, description="GET if not given, or POST where there is a body"
    )
    headers: Annotated[
        dict[str, Annotated[Template, compiles(templates.text_template, VARIABLES)]],
        Field(max_length=50),
        AfterValidator(_headers),
    ] = Field(default={}, description="Sent with the request and with what `until` asks")
    json_: Annotated[Any, AfterValidator(plain_json), AfterValidator(_strings_compile)] = Field(
        default=None, alias="json", description="The body as JSON, whose strings are templates"
    )
    body: Annotated[LongText, compiles(templates.text_template, VARIABLES)] | None = Field(
        default=None, description="The body as text"
    )
    expect: Statuses | None = Field(default=None, description="The status or statuses to expect; any 2xx if not given")
    until: UntilFile | None = None
    verify: Verify = True
    files: Annotated[
        dict[str, FilePath],
        Field(max_length=20),
        AfterValidator(_files),
    ] = Field(default={}, description="Files on the worker, such as tokens; templates see their content")

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.has_json and self.body is not None:
            raise PydanticCustomError("two_bodies", "a request has one body: json or body, not both")
        return self

    @property
    def has_json(self) -> bool:
        """Whether there is a JSON body, which may be null."""
        return "json_" in self.model_fields_set

    @property
    def verb(self) -> str:
        """The request's method."""
        return self.method or ("POST" if self.has_json or self.body is not None else "GET")

    @property
    def relative(self) -> bool:
        """Whether it names a file by a path that depends on the folder."""
        paths = [*self.files.values(), *([self.verify] if isinstance(self.verify, str) else [])]
        return not all(PurePosixPath(path).is_absolute() for path in paths)

    def settings(self) -> Mapping[str, Any]:
        """What was written, as plain JSON, from which the same comes back."""
        written: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return written
