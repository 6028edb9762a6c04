# Everything runs in a virtual environment that this file makes. Needed beforehand: Python 3.10+, git, make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A machine may have it set. Then every process would compile the tests and the package anew.
export PYTHONDONTWRITEBYTECODE :=
# Python compiles what is imported; to compile all that is installed would take a third of the time.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: help demo dagit ui test test-fast test-production test-production-fast test-scale compat e2e lint audit format docs package bench bench-short chaos postgresql clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 21

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("dagster-kumo needs Python 3.10 or newer; set PYTHON=python3.x") if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv $(VENV)

# Each of these pins the one release of Dagster that it belongs to. Named first, they decide it; else pip
# begins with the newest Dagster, and when one of them is a release behind it tries them all.
DAGSTER := dagster-webserver dagster-dg-cli

# The stamps make a second call free; a change of the dependencies installs again.
$(VENV)/.demo: pyproject.toml example_project/pyproject.toml | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV) ..."
	@$(PIP) $(DAGSTER) -e '.[local,plots,evaluation]' -e example_project
	@touch $@

$(VENV)/.dev: pyproject.toml example_project/pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need into $(VENV) ..."
	@$(PIP) $(DAGSTER) dagster-postgres -e '.[dev]' -e example_project
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## materialize three days of predictions on the local stand-in
	@$(BIN)/python -m example_project.demo

# What a script starts in the background ignores SIGINT, and Dagster could not be ended: heed it again,
# where `env` knows how.
HEEDING_SIGNALS = $(shell env --default-signal=INT,TERM true 2>/dev/null && echo env --default-signal=INT,TERM)

# The same DAGSTER_HOME as the demo's: what it made is shown. DAGIT_OPTIONS="--port 3001", for example.
dagit: $(VENV)/.demo ## open the Dagster UI (Dagit) on the example project
	@$(BIN)/python -m example_project.which_kumo
	@cd example_project && DAGSTER_HOME='$(CURDIR)/example_project/dagster_home' \
	  exec $(HEEDING_SIGNALS) '$(abspath $(BIN))/dg' dev $(DAGIT_OPTIONS)

ui: dagit ## the same

# Half of the time of most tests is waiting, for a job or a process: two workers for each core.
WORKERS = $(shell $(BIN)/python -c 'import os; print(2 * (os.cpu_count() or 1))')

# Collecting all tests takes as long as running these.
test-fast: $(VENV)/.dev ## run the tests that need neither a server nor a model, a few seconds
	@$(BIN)/python -m pytest -m 'fast and not slow' -q -p no:xdist $$(grep -rl --include='test_*.py' 'mark\.fast$$' tests)

test: $(VENV)/.dev ## run the tests
	@$(BIN)/python -m pytest -m 'not e2e and not scale and not production' -n $(WORKERS) --dist worksteal

$(VENV)/.dev-scale: pyproject.toml example_project/pyproject.toml | $(BIN)/python
	@echo "Installing Spark, Dask and dbt into $(VENV) ..."
	@$(PIP) $(DAGSTER) dagster-postgres dagster-dask dagster-dbt -e '.[dev-scale]' -e example_project
	@touch $@ $(VENV)/.dev $(VENV)/.demo

test-scale: $(VENV)/.dev-scale ## run the tests with killed processes, Spark, a Dask cluster, dbt, whole programs and runs of many steps
	@command -v java >/dev/null || { \
		echo "Installing Java, which Spark runs on ..."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless >/dev/null; }
	@$(BIN)/python -m pytest -m scale -n $(WORKERS) --dist loadfile tests/system tests/components/test_dg.py tests/local

postgresql:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		echo "Installing PostgreSQL ..."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null; }

test-production: $(VENV)/.dev postgresql ## run the tests with PostgreSQL, a daemon and a web server
	@$(BIN)/python -m pytest -m production tests/system/production

test-production-fast: $(VENV)/.dev postgresql ## those of them that together take two minutes
	@$(BIN)/python -m pytest -m 'production and not slow' -n 2 --dist loadfile tests/system/production

# ROWS="oldest newest" runs only those.
compat: $(VENV)/.dev ## run the tests with the oldest and the newest Dagster, pandas, pyarrow, Python and SDK
	@$(BIN)/python .ci/compat.py $(ROWS)

e2e: $(VENV)/.dev ## test the Dagster UI in a real browser
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
		echo "Installing Chromium ..."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }
	@$(BIN)/python -m pytest -m e2e -n 2 --dist loadfile tests/system/e2e

lint: $(VENV)/.dev ## ruff, pyright, import-linter, deptry
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/deptry .

audit: $(VENV)/.dev ## look for dependencies that are known to be vulnerable
	@$(BIN)/python .ci/audit.py

format: $(VENV)/.dev ## let ruff format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	@echo "Installing what the documentation site needs into $(VENV) ..."
	@$(PIP) $(DAGSTER) -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

package: $(VENV)/.dev ## build wheel and sdist, and try each in an empty environment
	@$(BIN)/python .ci/package.py

# CHAOS_OPTIONS="--storage sqlite --minutes 2 --seed 31", for example.
chaos: $(VENV)/.dev postgresql ## launch days and backfills while calls break and processes are killed, a quarter of an hour
	@$(BIN)/python -m chaos $(CHAOS_OPTIONS)

bench: $(VENV)/.dev ## measure against the official SDK
	@$(BIN)/python -m benchmarks

bench-short: $(VENV)/.dev ## measure a little, and fail only when it is far off again and again
	@$(BIN)/python -m benchmarks --short

clean: ## remove what the other targets made
	@rm -rf $(VENV) .venv-* dist build site screenshots example_project/data
	@find example_project/dagster_home -mindepth 1 ! -name dagster.yaml -delete
