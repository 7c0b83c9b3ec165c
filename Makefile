# Every target sets up what it needs. You need Python 3.11 or newer, and make.

PYTHON ?= $(firstword $(foreach name,python3 python3.12 python3.13 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
SET_UP := .venv/.set-up
RUNNABLE := .venv/.runnable
ASSETS := bbio/static/.stamp
SOURCES := pyproject.toml uv.lock hatch_build.py $(wildcard tools/*.py client/*.json client/*.mjs) \
	examples/messages/index.html \
	$(shell find client/src -type f 2>/dev/null)
ARGS ?=
FEWEST_PYTHONS ?= 1

export UV_PYTHON_DOWNLOADS = never
unexport VIRTUAL_ENV
# Tests start many processes, each of which would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test postgres schedules crash lint format types docs backbone bench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

setup: $(SET_UP) ## set everything up (the other targets set up what they need)

demo: $(RUNNABLE) ## serve the messages example
	@$(BIN)/bbio demo $(ARGS)

test: $(SET_UP) ## run all tests, in JavaScript and on every Python that is found (ARGS="-k stack" for some, on one)
	@echo "== JavaScript tests"
	@$(BIN)/python tools/npm.py client test
	@echo "== Python tests"
	@$(BIN)/python tools/pythons.py $(FEWEST_PYTHONS) $(ARGS)

postgres: $(SET_UP) ## run the tests of PostgreSQL, on another than the system's (POSTGRES=/usr/lib/postgresql/18/bin)
	@BBIO_POSTGRES_BIN=$(POSTGRES) $(BIN)/pytest -n 2 --dist loadgroup --no-cov \
		$$(grep -lErw "database_url|postgres_server|PostgresServer" --include="test_*.py" tests) $(ARGS)

schedules: $(SET_UP) ## drive servers and clients through 10,000 random schedules, and as many of views, of live queries and of identities (about 50 minutes)
	@BBIO_SCHEDULES=2600 $(BIN)/pytest -n 2 --no-cov tests/properties/test_delivery.py tests/properties/test_views.py tests/properties/test_live_queries.py tests/properties/test_identities.py

crash: $(SET_UP) ## kill a server, and PostgreSQL, while they write, 50 times over (ROUNDS=300)
	@BBIO_CRASH_ROUNDS=$(or $(ROUNDS),50) $(BIN)/pytest -n 0 -q -s tests/integration/test_crash.py tests/integration/test_postgres_crash.py tests/integration/test_consumers.py $(ARGS)

soak: $(SET_UP) ## let clients, half of them hostile, come and go for half an hour: nothing grows, the others wait for nothing (MINUTES=30)
	@BBIO_SOAK_MINUTES=$(or $(MINUTES),30) $(BIN)/pytest -n 0 -s --no-cov --timeout 0 tests/integration/test_faults_churn.py -k hostile $(ARGS)

lint: $(SET_UP) ## check style and the floor plan
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports

format: $(SET_UP) ## mend what lint can mend by itself
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(SET_UP) ## check the types
	@$(BIN)/mypy
	@$(BIN)/pyright

docs: $(SET_UP) ## build the documentation
	@$(BIN)/sphinx-build -W -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

backbone: $(SET_UP) ## run Backbone's own tests with bbio's scripts loaded (BACKBONE=folders with its versions)
	@$(BIN)/python -m tools.backbone_suite $(BACKBONE)

bench: $(SET_UP) ## measure, beside peers, and the collections of pages
	@$(BIN)/python -m benchmarks $(ARGS); status=$$?; $(BIN)/python -m benchmarks.views && \
		$(BIN)/python -m benchmarks.deltas && \
		$(BIN)/python -m benchmarks.listeners && \
		$(BIN)/python -m benchmarks.scopes && \
		$(BIN)/python -m benchmarks.presence && \
		$(BIN)/python -m benchmarks.identity && \
		$(BIN)/python -m benchmarks.bulk && \
		$(BIN)/python tools/npm.py client run bench && exit $$status

clean: ## remove all that was set up or built
	rm -rf .venv .venvs .*_cache .hypothesis .coverage* build dist docs/_build bbio/static client/dist client/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	@echo "== making .venv"
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y python3-venv; } || \
		{ echo "$(PYTHON) lacks the module venv: install it (on Debian the package python3-venv)"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check "uv>=0.9"

# Assets that somebody removed are made again.
ifeq ($(wildcard $(ASSETS)),)
.PHONY: $(SET_UP) $(RUNNABLE)
endif
# Installs what bbio needs to run. Development tools are left out, and left alone if they are there.
$(RUNNABLE): $(SOURCES) | $(BIN)/uv
	@echo "== installing bbio, building the browser's scripts"
	@$(BIN)/uv sync --locked --no-dev --inexact --reinstall-package bbio
	@touch $@

$(SET_UP): $(SOURCES) | $(BIN)/uv
	@echo "== installing Python packages, building the browser's scripts"
	@$(BIN)/uv sync --locked --all-extras --reinstall-package bbio
	@echo "== looking for a browser and servers for the tests"
	@$(BIN)/python tools/machine.py
	@touch $@ $(RUNNABLE)
