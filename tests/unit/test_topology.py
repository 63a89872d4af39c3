"""`docker-compose.yml` and `Dockerfile` agree with the code, with each other, and with the files that they name.

That they are well-formed is for `make check` to say (decision 0010).
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from sqlalchemy import make_url
from temporalio.envconfig import ClientConfigProfile

import workflows.lease
from leasehold import __version__, config
from leasehold.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
OWN = {name: service for name, service in SERVICES.items() if service["image"].startswith("leasehold:")}
ONE_SHOT = {"temporal-schema", "temporal-set-up", "migrate"}
OTHERS_VARIABLES = {
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD_FILE"},
    "temporal-schema": {"SQL_PLUGIN", "SQL_HOST", "SQL_PORT", "SQL_USER", "SQL_PASSWORD"},
    "temporal": {
        *("DB", "DB_PORT", "POSTGRES_SEEDS", "POSTGRES_USER", "POSTGRES_PWD"),
        *("DYNAMIC_CONFIG_FILE_PATH", "BIND_ON_IP"),
    },
    "temporal-set-up": {"TEMPORAL_ADDRESS"},
    "temporal-ui": {"TEMPORAL_ADDRESS"},
}
"""What the images of others document, as far as it is used here."""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `deploy/make-secrets` makes."""
    folder = tmp_path_factory.mktemp("deploy") / "secrets"
    subprocess.run([ROOT / "deploy" / "make-secrets", folder], check=True)
    return folder


def instructions(name: str) -> list[list[str]]:
    """The arguments of one kind of instruction in the Dockerfile."""
    return [words[1:] for words in DOCKERFILE if words and words[0] == name]


def variables(name: str, secrets: Path) -> dict[str, str]:
    """What a service finds in its environment."""
    service = SERVICES[name]
    found = dict(service.get("environment", {}))
    if "env_file" in service:
        lines = (secrets / Path(service["env_file"]).name).read_text().split()
        found |= dict(line.split("=", 1) for line in lines)
    return found


def mounts() -> Iterator[tuple[str, str]]:
    """Each service with the sources of its volumes."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            yield name, volume.partition(":")[0]


def images() -> list[str]:
    return [*(service["image"] for service in SERVICES.values()), *(words[0] for words in instructions("FROM"))]


def test_every_image_is_pinned() -> None:
    assert len(images()) > 5
    for image in images():
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?[a-z0-9.-]*", image), image


def test_our_image_has_our_version() -> None:
    assert {service["image"] for service in OWN.values()} == {f"leasehold:{__version__}"}
    assert all(service["build"] == "." for service in OWN.values())


def test_the_image_holds_all_that_its_processes_import() -> None:
    copied = {words[0] for words in instructions("COPY")}
    assert copied == {"requirements/service.txt", "leasehold", "workflows", "activities", "api", "worker"}
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert copied <= sent
    assert all((ROOT / source).exists() for source in copied)


def test_the_whole_topology_is_there() -> None:
    assert set(OWN) == {"migrate", "api", "worker", "site-worker"}
    assert SERVICES["api"]["deploy"]["replicas"] > 1
    assert SERVICES["worker"]["deploy"]["replicas"] > 1


@pytest.mark.parametrize("name", OWN)
def test_every_command_is_one_of_ours(name: str) -> None:
    python, option, module, *_ = OWN[name]["command"]
    assert (python, option) == ("python", "-m")
    assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_known(name: str, secrets: Path) -> None:
    found = variables(name, secrets)
    if name not in OWN:
        assert set(SERVICES[name]["environment"]) <= OTHERS_VARIABLES[name] <= set(found)
        return
    nothing = ClientConfigProfile.load(disable_file=True, override_env_vars={})
    for variable, value in found.items():
        if variable.startswith("LEASEHOLD_"):
            assert variable.removeprefix("LEASEHOLD_").lower() in Settings.model_fields
        elif variable != "TEMPORAL_UI_URL":
            assert ClientConfigProfile.load(disable_file=True, override_env_vars={variable: value}) != nothing


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_the_file(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        assert not re.search("PASSWORD$|PWD|TOKEN|SECRET|API_KEY|DATABASE_URL|LOGS_URL", variable), variable
        assert not re.search(r"//[^/]*:[^/]*@", value), variable


@pytest.mark.parametrize("name", OWN)
def test_our_processes_are_nobody_special(name: str) -> None:
    (user,) = instructions("USER")
    assert int(user[0]) > 0
    assert OWN[name]["cap_drop"] == ["ALL"]
    assert OWN[name]["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in OWN[name]
    assert not OWN[name].get("privileges")


def test_the_secrets_that_are_read_are_made(secrets: Path) -> None:
    made = {path.name for path in secrets.iterdir()}
    declared = {name: Path(secret["file"]) for name, secret in COMPOSE["secrets"].items()}
    assert {path.name for path in declared.values()} | {"temporal.env"} == made
    assert {str(path.parent) for path in declared.values()} == {"deploy/secrets"}
    assert all(name == path.name for name, path in declared.items())
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= set(declared)
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().split()


def test_secrets_are_made_once_and_kept_from_others(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run([ROOT / "deploy" / "make-secrets", secrets], check=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    random = [text for name, text in before.items() if not name.endswith(("_url", ".env"))]
    assert len(set(random)) == len(random)
    assert all(len(text.strip()) == 48 for text in random)
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700


def test_our_processes_are_told_of_databases_that_are_made(secrets: Path) -> None:
    for service in OWN.values():
        assert {"leasehold_database_url", "leasehold_logs_url", "leasehold_secret_key"} == set(service["secrets"])
    settings = Settings(_secrets_dir=secrets)
    assert settings.secret_key == (secrets / "leasehold_secret_key").read_text().strip()
    made = (ROOT / "deploy" / "databases.sh").read_text()
    for url in map(make_url, (settings.main_url, settings.log_url)):
        assert (url.host, url.username) == ("postgres", "leasehold")
        assert url.password == (secrets / "leasehold_password").read_text().strip()
        assert f"CREATE DATABASE {url.database} OWNER leasehold;" in made
    assert settings.main_url != settings.log_url


def test_the_settings_of_a_variable_win_over_those_of_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASEHOLD_SECRET_KEY", "mine")
    assert Settings(_secrets_dir=secrets).secret_key == "mine"


def test_temporal_finds_the_databases_that_are_made(secrets: Path) -> None:
    made = (ROOT / "deploy" / "databases.sh").read_text()
    (script,) = SERVICES["temporal-schema"]["command"]
    databases = re.findall(r"^schema (\w+) \w+$", script, re.MULTILINE)
    assert databases == ["temporal", "temporal_visibility"]
    assert all(f"CREATE DATABASE {name} OWNER temporal;" in made for name in databases)
    tool, server = variables("temporal-schema", secrets), variables("temporal", secrets)
    assert tool["SQL_USER"] == server["POSTGRES_USER"] == "temporal"
    assert tool["SQL_PASSWORD"] == server["POSTGRES_PWD"] == (secrets / "temporal_password").read_text().strip()
    assert (tool["SQL_HOST"], tool["SQL_PORT"]) == (server["POSTGRES_SEEDS"], server["DB_PORT"]) == ("postgres", "5432")


def test_the_ports_agree() -> None:
    api = SERVICES["api"]
    port = int(api["environment"]["LEASEHOLD_API_PORT"])
    host, published, inside = api["ports"][0].split(":")
    first, last = map(int, published.split("-"))
    assert (host, int(inside)) == ("127.0.0.1", port)
    assert last - first + 1 == api["deploy"]["replicas"]
    assert f":{port}/healthz" in " ".join(api["healthcheck"]["test"])
    assert instructions("EXPOSE") == [[str(port)]]
    assert "7233" in SERVICES["temporal"]["healthcheck"]["test"]
    for name in SERVICES:
        address = SERVICES[name].get("environment", {}).get("TEMPORAL_ADDRESS", "temporal:7233")
        assert address == "temporal:7233"
    ui = OWN["api"]["environment"]["TEMPORAL_UI_URL"].removeprefix("http://")
    assert SERVICES["temporal-ui"]["ports"] == [f"{ui}:8080"]


def test_nothing_is_reachable_from_outside_unless_somebody_opens_it() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_what_is_mounted_is_there() -> None:
    for name, source in mounts():
        if source.startswith("."):
            assert (ROOT / source).exists(), (name, source)
        else:
            assert source in COMPOSE["volumes"], (name, source)


def test_workers_in_containers_share_no_locks() -> None:
    assert instructions("ENV") == [["LEASEHOLD_DATA=/data", "PYTHONUNBUFFERED=1"]]
    for name in ("worker", "site-worker"):
        assert not any(volume.partition(":")[2].startswith("/data") for volume in SERVICES[name]["volumes"])


def test_the_pools_file_is_good() -> None:
    path = ROOT / "deploy" / "pools" / "pools.yaml"
    for name in ("worker", "site-worker"):
        assert SERVICES[name]["volumes"] == ["./deploy/pools:/pools:ro"]
        assert SERVICES[name]["environment"]["LEASEHOLD_POOLS"] == f"/pools/{path.name}"
    assert config.load_yaml(path.read_bytes(), "/pools").pools


@pytest.mark.parametrize("name", SERVICES)
def test_every_process_comes_back_and_starts_in_order(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("on-failure:5" if name in ONE_SHOT else "unless-stopped")
    for other, wanted in service.get("depends_on", {}).items():
        if other in ONE_SHOT:
            assert wanted == {"condition": "service_completed_successfully"}
        else:
            assert wanted == {"condition": "service_healthy"}
            assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"


def test_the_search_attributes_are_those_of_the_workflow() -> None:
    (script,) = SERVICES["temporal-set-up"]["command"]
    keys = [getattr(workflows.lease, name) for name in vars(workflows.lease) if re.fullmatch("LEASE_[A-Z]+", name)]
    wanted = {f"{key.name}={key.indexed_value_type.name.title()}" for key in keys}
    assert len(wanted) == 4
    assert set(re.findall(r"\bLease[A-Z]\w+=\w+", script)) == wanted
    assert set(re.findall(r"--search-attribute (\S+)", (ROOT / "Procfile").read_text())) == wanted


@pytest.mark.parametrize("script", ["make-secrets", "databases.sh"])
def test_scripts_are_good_shell(script: str) -> None:
    shell = shutil.which("dash") or "/bin/sh"
    assert subprocess.run([shell, "-n", ROOT / "deploy" / script]).returncode == 0
    assert (ROOT / "deploy" / script).stat().st_mode & stat.S_IXUSR
