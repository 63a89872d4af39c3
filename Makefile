# Leasehold's commands. `make` alone lists them; each sets up what it needs first.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# More tests at once than there are processors: many of them mostly wait.
WORKERS ?= $(shell echo $$(($$(nproc) * 2)))
MAKEFLAGS += --no-print-directory
# Without compiled modules beside the sources, each of a stack's processes and each call of `leasehold` compiles them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up test coverage check bench simulate kills machine chaos lock clean temporal test-server boskos

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/ready temporal test-server ## install everything into .venv and .tools; quick when it is there

demo: .venv/ready temporal ## show one lease after another on three real resources, in a minute
	@$(BIN)/python examples/demo.py $(ARGS)

up: .venv/ready temporal ## run the whole service here: Temporal, worker, API; Ctrl-C stops it, nothing is lost
	@exec $(BIN)/python scripts/up.py

# Temporal's server collects its garbage less often: a tenth of what it does, and there are many servers.
test coverage kills: export GOGC ?= 400

test: setup ## all tests; a part of them with ARGS="tests/unit -k grant"
	@$(BIN)/python -m tests --numprocesses $(WORKERS) --dist worksteal $(ARGS)

coverage: setup ## the same, with what of the code they reach; takes half as long again
	@$(BIN)/python -m tests --cov --numprocesses $(WORKERS) --dist worksteal $(ARGS)

check: .venv/ready ## style, types, import rules, and the description of the containers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/hadolint Dockerfile

bench: .venv/ready temporal boskos ## measure, beside the targets, for some minutes; a part of it with ARGS="sqlite reading"
	@$(BIN)/python -m tests.bench $(ARGS)

simulate: .venv/ready temporal ## 75 hosts, three leases of 25 at once, in virtual time; with a picture; ARGS=--help
	@$(BIN)/python -m tests.simulation $(ARGS)

kills: .venv/ready temporal ## kill -9 at every commit that the service makes, one after the other; some minutes
	@$(BIN)/python -m tests tests/e2e/test_kills.py -m long $(ARGS)

machine: .venv/ready ## 20,000 runs of whatever may happen to the queue in any order, on each database; hours
	@LEASEHOLD_MACHINE_RUNS=20000 $(BIN)/python -m tests tests/contract/test_store_machine.py $(ARGS)

chaos: .venv/ready temporal ## five minutes of leases while processes are killed at random; ARGS=--help
	@$(BIN)/python -m tests.chaos $(ARGS)

# Versions stay as they are locked, unless a new constraint forbids one. ARGS=--upgrade takes the newest of all.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS) pyproject.toml
lock: .venv/ready ## recompile requirements/*.txt from pyproject.toml
	$(COMPILE) --extra service --output-file requirements/service.txt
	$(COMPILE) --extra service --group dev --constraint requirements/service.txt --output-file requirements/dev.txt

clean: ## remove what builds, checks and tests left; keeps data, .venv and .tools
	rm -rf build dist *.egg-info .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/ready: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...' >&2; exit 1; }
	@echo 'installing the locked packages into .venv'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

temporal: .venv/ready
	@scripts/get-temporal

test-server:
	@scripts/get-test-server

boskos:
	@scripts/get-boskos
