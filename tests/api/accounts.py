"""The account that runs the tests, as MUNGE vouches for it."""

from __future__ import annotations

import os
import pwd
from dataclasses import replace
from pathlib import Path

import httpx
from fastapi import FastAPI

from api.app import create_app
from api.munge import Munge
from leasehold.access import Role
from leasehold.munge import MungeAuth
from tests.api.stack import URL, Stack, caller
from tests.munge import Munged

ACCOUNT = pwd.getpwuid(os.getuid()).pw_name


def taking_munge(stack: Stack, socket: Path, role: Role = Role.USER) -> FastAPI:
    """The same service, where accounts are let in with this role."""
    return create_app(replace(stack.services, munge=Munge(role, stack.services.logins.store, socket)))


def account(app: FastAPI, munged: Munged) -> httpx.AsyncClient:
    """A client of the application that is the account."""
    http = caller(app, None)
    http.auth = MungeAuth(URL, munged.socket)
    return http
