# Falaj. Two commands do everything on a fresh Debian machine: `make run` and `make test`.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FALAJ := $(BIN)/falaj
LOCK_STAMP := $(VENV)/.locked
DEV_STAMP := $(VENV)/.locked-dev

.PHONY: help run test check install install-dev lock format clean

help: ## List what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(LOCK_STAMP) ## Make .venv from requirements.lock

install-dev: $(DEV_STAMP) ## The same with the tools that check and test

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "falaj: $(PYTHON) is older than 3.11; run make with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "falaj: $(PYTHON) cannot make virtual environments; install them first: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(LOCK_STAMP): requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): requirements-dev.lock $(LOCK_STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

lock: ## Pin every dependency again (needs uv)
	uv pip compile pyproject.toml --group build --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet -o requirements.lock
	uv pip compile pyproject.toml --group build --group dev --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet -c requirements.lock -o requirements-dev.lock

check: $(DEV_STAMP) ## Lint, types, import contracts, tidy
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_tidy.py

format: $(DEV_STAMP) ## Format the code and sort imports
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

test: $(DEV_STAMP) ## The whole test suite, against the real engines
	$(BIN)/python -m pytest -q

clean: ## Remove the virtual environment and every cache (not a region's data)
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
