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

HANDBOOK := --bucket documents --project handbook
MODEL := qwen2.5-coder-1.5b-instruct

# What a newcomer would type, in the order that wastes no time: the model is pulled while the handbook is being read.
run: install ## Start a region and ask an agent about the handbook in three languages
	$(FALAJ) up
	$(FALAJ) apply -f examples/handbook/documents.yaml -f examples/handbook/models.yaml
	$(FALAJ) wait bucket/handbook/documents
	$(FALAJ) objects put docs/handbook $(HANDBOOK)
	$(FALAJ) apply -f examples/handbook/
	$(FALAJ) models pull $(MODEL)
	$(FALAJ) wait knowledgebase/handbook/handbook endpoint/system/$(MODEL) agent/handbook/handbook --timeout 15m
	$(FALAJ) ask handbook "What is a region?"
	$(FALAJ) ask handbook "من يستطيع الوصول إلى المنطقة الجديدة؟"
	$(FALAJ) ask handbook "Comment révoquer une clé d'API ?"
	$(FALAJ) status
	@printf '%s\n' '' 'The region runs. Use it:' \
	  '  $(FALAJ) ask handbook "How do I make an API key?"' \
	  '  $(FALAJ) apply -f examples/own-folder/      an agent over a folder of your own: the file says how' \
	  '  $(FALAJ) --help                             everything else; docs/guides/cli.md has an example of each' \
	  'OpenAI clients: the address above and /v1, a key from `$(FALAJ) keys create --name NAME`, the model agent/handbook' \
	  'Stop it: $(FALAJ) down. Start it again: $(FALAJ) up.'

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
	$(BIN)/python -m pytest -q -n 3 --dist loadfile

clean: ## Remove the virtual environment and every cache (not a region's data)
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
