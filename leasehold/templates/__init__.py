"""Templates and expressions of a pools file: the part of Jinja's language that reads data, and nothing else.

They are written by whoever writes pools files, and filled with what anybody typed. So a template can neither leave its
data (no attribute of an object is ever looked up, nothing can be called, and only the filters and tests below exist)
nor run away: there is nothing that multiplies, and what a rendering does is metered. What it prints must be text,
a number, true or false; the rest has to be said. An error never quotes a value.
"""

from leasehold.templates.meter import BadTemplate, NotRendered, metered
from leasehold.templates.sandbox import LONGEST, missing
from leasehold.templates.text import Expression, TextTemplate, expression, text_template
from leasehold.templates.urls import UrlTemplate, url_template

__all__ = [
    "LONGEST",
    "BadTemplate",
    "Expression",
    "NotRendered",
    "TextTemplate",
    "UrlTemplate",
    "expression",
    "metered",
    "missing",
    "text_template",
    "url_template",
]
