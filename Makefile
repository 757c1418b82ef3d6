# `make help` lists the targets. Each installs what it needs, from the lock, into .venv (frameworks: .venv-clients); a second run
# installs nothing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock"
OWN := pyproject.toml requirements/build.in
CLIENTS := .venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --no-input
NODE := tests/sdk/node

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test lint types fuzz chaos soak bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

run: .venv/run.stamp ## install what serving needs, then serve with the built-in defaults
	@$(BIN)/penstock serve

test: lint types .venv-clients/clients.stamp $(NODE)/node_modules/npm.stamp ## check style and types, then run every test
	@echo "make: pytest" && $(BIN)/python -m pytest

lint: .venv/dev.stamp ## ruff: rules and formatting
	@echo "make: ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/dev.stamp ## mypy, strict
	@echo "make: mypy" && $(BIN)/mypy

fuzz: .venv/dev.stamp .venv-clients/clients.stamp ## fuzz at length, by OpenAI's own document (ARGS="--sdk": by the types of its SDK)
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

chaos: .venv/dev.stamp ## ten minutes of failing providers and leaving clients (ARGS="--seconds 60", "--scenario outage", "storm")
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

soak: .venv/dev.stamp ## limits and ledger at length: histories, hang-ups, kills, millions of rows (ARGS="--scenario model")
	@PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

bench: .venv/dev.stamp ## measure Penstock against nginx on two cores (ARGS="--only cpu" selects)
	@$(BIN)/python bench/run.py $(ARGS)

lock: .venv/dev.stamp ## compile requirements/*.txt from pyproject.toml and clients.in again
	@$(LOCK) $(OWN) --output-file requirements/run.txt && $(LOCK) $(OWN) --extra dev --constraint requirements/run.txt --output-file requirements/dev.txt && $(LOCK) requirements/clients.in --output-file requirements/clients.txt

clean: ## remove everything that is built or installed here
	@rm -rf .venv .venv-clients build $(NODE)/node_modules

.venv/bin/python:
	@echo "make: .venv" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Penstock needs Python 3.11 or later; set PYTHON=")' && $(PYTHON) -m venv .venv

.venv/run.stamp: requirements/run.txt pyproject.toml | .venv/bin/python
	@echo "make: installing the runtime" && $(PIP) --require-hashes -r requirements/run.txt && $(PIP) --no-deps --no-build-isolation -e . && touch $@

.venv/dev.stamp: requirements/dev.txt pyproject.toml | .venv/bin/python
	@echo "make: installing the runtime and the tools" && $(PIP) --require-hashes -r requirements/dev.txt && $(PIP) --no-deps --no-build-isolation -e . && touch $@

.venv-clients/clients.stamp: requirements/clients.txt
	@echo "make: installing the frameworks" && $(PYTHON) -m venv .venv-clients && $(CLIENTS) --require-hashes -r requirements/clients.txt && touch $@

$(NODE)/node_modules/npm.stamp: $(NODE)/package.json $(NODE)/package-lock.json
	@echo "make: installing the Node SDK" && npm ci --prefix $(NODE) --silent --no-audit --no-fund && touch $@
