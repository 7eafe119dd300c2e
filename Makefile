# `make test` and `make demo` do all their own set-up; every other target is a part of them.
# Recipes print what they do: a hang must show where.

PYTHON ?= python3
export EVENTS SECONDS SEED GUARANTEE TENANTS
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
SANDBOX := $(BIN)/python -m sandbox

.DEFAULT_GOAL := help
.PHONY: help setup lock test check test-unit test-contract test-integration test-e2e test-lowest demo bench chaos up down shell format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.stamp  ## the virtual environment, from the lock file

$(VENV)/.stamp: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Bento Outbox needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test: setup  ## everything; what CI runs
	@$(BIN)/python -m tests.tiers

check: setup  ## linters, types, import layers, architecture tests
	@$(BIN)/python -m tests.tiers check

test-unit test-contract test-integration test-e2e: test-%: setup
	@$(BIN)/python -m tests.tiers $*

# Not a part of `test`: that long for what changes with pyproject.toml only.
test-lowest: setup  ## all but the end-to-end tests, with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --require-hashes -r requirements/build.lock
	$(LOWEST)/bin/python -m pip install --quiet --require-hashes -r requirements/lowest.lock
	$(LOWEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(SANDBOX) exec --parts postgres,pulsar -- $(LOWEST)/bin/python -m pytest tests/unit tests/contract tests/integration

demo: export DEMO_STARTED = $(shell date +%s.%N)
demo: setup  ## two tenants, an outage, a poisoned event, on real parts
	@$(SANDBOX) up
	@$(SANDBOX) exec -- $(BIN)/python -m examples.demo

bench: setup  ## all benchmarks, or one: make bench NAME=write_side; WRITE=1 puts the results into docs/benchmarks.md
	@$(BIN)/python -m bench $(if $(WRITE),--write) $(NAME)

chaos: setup  ## projectors killed all the time, a broker that restarts: make chaos EVENTS=100000 SECONDS=600 SEED=1
	@$(SANDBOX) exec --parts postgres,pulsar -- $(BIN)/python -m tests.faults.chaos

up: setup  ## Postgres, Pulsar and Kubernetes on this machine
	@$(SANDBOX) up

shell: setup  ## a shell that sees them
	@$(SANDBOX) shell

down: setup  ## removes them; builds stay cached
	@$(SANDBOX) down

format: setup  ## formats the code, mends what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Hashes, no addresses: the mirror is the machine's own business. dev.lock holds everything, the others are parts of it;
# but lowest.lock has the lowest versions of what pyproject.toml names.
LOCK = UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate

lock:  ## requirements/*.lock anew from pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --upgrade pyproject.toml requirements/build.in --extra projector --extra operator --group dev -o requirements/dev.lock
	$(LOCK) -c requirements/dev.lock pyproject.toml --extra projector -o requirements/projector.lock
	$(LOCK) -c requirements/dev.lock pyproject.toml --extra operator -o requirements/operator.lock
	$(LOCK) -c requirements/dev.lock requirements/build.in -o requirements/build.lock
	$(LOCK) --resolution lowest-direct pyproject.toml --extra projector --extra operator --group dev -o requirements/lowest.lock

clean:  ## removes the virtual environment (the sandbox's caches: see docs/sandbox.md)
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis
