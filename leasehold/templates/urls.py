"""Templates that make a URL, in which no value can leave the place where it was written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from jinja2 import nodes

from leasehold.templates.filters import Encoded, PathAndQuery, printed
from leasehold.templates.meter import BadTemplate, NotRendered
from leasehold.templates.sandbox import ENVIRONMENT, compiling, rendering
from leasehold.templates.text import Expression, expression_of

_IN_A_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\#]")


@dataclass(frozen=True, eq=False)
class UrlTemplate:
    """A URL with `{{ expressions }}`, each of which stays where it was written.

    In a host it is a part of a host or port, in a path one segment or a part of it, in a query one name or value; what
    else it may contain is percent-encoded. Those that end in `| path` can be several segments and a query.
    """

    scheme: str
    _parts: Sequence[str | Expression]

    def render(self, values: Mapping[str, Any]) -> str:
        """Fill it in; raise `NotRendered`."""
        with rendering():
            parts: list[str] = []
            here = "host"
            for part in self._parts:
                parts.append(_placed(here, part.value(values)) if isinstance(part, Expression) else part)
                here = _after(here, parts[-1])
            url = f"{self.scheme}://{''.join(parts)}"
            _check_path(urlsplit(url).path)
            return url


def _after(here: str, part: str) -> str:
    """In what part of a URL the text after `part` is."""
    if here == "query" or "?" in part:
        return "query"
    return "path" if here == "path" or "/" in part else "host"


def _placed(here: str, value: object) -> str:
    """A value as it may stand in this part of a URL."""
    text = printed(value)
    if here == "path" and not text:
        raise NotRendered("a value in the path is empty")
    if isinstance(value, PathAndQuery) and here != "query":
        if here == "host" and not text.startswith("/"):
            raise NotRendered("a path after a host must begin with /")
        return text
    if here == "host":
        if not _IN_A_HOST.fullmatch(text):
            raise NotRendered("a value cannot be a part of a host")
        return text
    return text if isinstance(value, Encoded) else quote(text, safe="")


def _check_path(path: str) -> None:
    # Servers decode before they resolve, some of them twice, and some take a backslash for a slash.
    while (decoded := unquote(path)) != path:
        path = decoded
    if any(part in (".", "..") for part in re.split(r"[/\\;]", path)):
        raise NotRendered("the path has a segment . or ..")


@lru_cache(maxsize=2048)
def url_template(source: str, names: frozenset[str]) -> UrlTemplate:
    """Compile a URL that may use these variables. Raises `BadTemplate`."""
    with compiling(source):
        parts: list[str | Expression] = []
        written = ""
        for node in ENVIRONMENT.parse(source.strip()).body:
            if not isinstance(node, nodes.Output):
                raise BadTemplate("a URL takes {{ expressions }} alone")
            for part in node.nodes:
                if isinstance(part, nodes.TemplateData):
                    parts.append(part.data)
                    written += part.data
                else:
                    parts.append(expression_of(part, names))
                    written += "x"
        return _url(written, parts)


def _url(written: str, parts: list[str | Expression]) -> UrlTemplate:
    """Take a URL apart whose expressions are written as x. Raises `BadTemplate`."""
    scheme = re.match(r"https?://", written)
    if scheme is None or not isinstance(parts[0], str) or not parts[0].startswith(scheme[0]):
        raise BadTemplate("a URL begins with http:// or https://")
    if _NOT_IN_A_URL.search(written):
        raise BadTemplate("a URL has no spaces, backslashes, control characters or #")
    host = re.split(r"[/?]", written[len(scheme[0]) :], maxsplit=1)[0]
    if not host:
        raise BadTemplate("a URL needs a host")
    if "@" in host:
        raise BadTemplate("a URL carries no user or password; a header Authorization does")
    parts[0] = parts[0][len(scheme[0]) :]
    return UrlTemplate(scheme[0][:-3], parts)
