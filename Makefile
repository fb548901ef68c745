# Everything lands inside this folder: .venv*/ (libraries), .cache/ (downloads), .airflow/ (Airflow's state), .hpe/ (ours).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3.11
# Lambda's Python, for the function's emulator and for compiling its package; uv finds or fetches one if pyenv has none.
LAMBDA_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python3.13) 3.13)
PRESET ?= sample
CONF ?= {}
PORT ?= 8080
# What `make serve` serves: what `make run` publishes (the sample by itself, where nothing is there yet), or with PACKAGE
# the model in an unpacked Lambda package.
REGISTRY ?= s3://hpe-models/registry
MODEL ?= sample-pose
CHANNEL ?= staging
PACKAGE ?=
# `embedded` starts an S3 server in this folder; `environment` uses the AWS variables and files that you have set.
S3 ?= embedded

# Through the environment, so that quotes and line breaks arrive as they were typed.
export PRESET CONF

export AIRFLOW_HOME := $(CURDIR)
export HPE_WORKSPACE := file://$(CURDIR)/.hpe/workspace
export HPE_CACHE := $(CURDIR)/.hpe/cache
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export XDG_CACHE_HOME := $(CURDIR)/.cache
export XDG_CONFIG_HOME := $(CURDIR)/.cache/config
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
# Threads that wait by spinning slow a busy machine down tenfold.
export OMP_WAIT_POLICY ?= PASSIVE
export GX_ANALYTICS_ENABLED := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Whoever keeps Python from writing bytecode has each process compile its libraries anew: AIMET's import takes 14 s, not 6.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.8
STORE := $(BIN)/python -m hpe_tasks.local.object_store
LOCK := $(UV) pip compile --quiet --generate-hashes --no-header
LOCK_311 := $(LOCK) --python-version 3.11
# The Lambda package takes wheels only, in the versions that the tests run with.
LOCK_LAMBDA := $(LOCK) --python-version 3.13 --only-binary :all: --group lambda -c requirements.txt

# Shell commands that point AWS clients to the embedded server, which they start if it does not run yet.
ifeq ($(S3),embedded)
WITH_S3 = exports=$$($(STORE) start --env) || exit $$?; eval "$$exports";
else
WITH_S3 =
endif

# A program that ends with this make, however that ends, together with all that it has started.
GUARDED = exec env HPE_STARTED_BY=$$PPID
GUARD := $(BIN)/python -I hpe_tasks/local/processes.py

# Each service of docker/cluster.yaml has a folder there.
CLUSTER_HOME ?= .hpe/cluster

.PHONY: help setup run test ui cluster env stop lint format docs sbom wheel lock clean

help: ## Show what there is
	@echo "make TARGET [VARIABLE=value]"; echo
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | sed 's/[$$][$$]/$$/' | expand -t 12
	@echo; echo "Variables of run: PRESET=$(PRESET) CONF='{\"gate.min_ap\": 0.5}' S3=embedded|environment; of ui: PORT=$(PORT)"
	@echo "Variables of serve: MODEL=$(MODEL) CHANNEL=$(CHANNEL) REGISTRY=$(REGISTRY) PACKAGE=folder PORT=8090"

setup: .airflow/ready .venv-object-store/ready .venv-lambda/ready ## Install everything and prepare Airflow's database

run: setup ## Quantize, prove and publish a model with the DAG; ends with the table of results
	@$(WITH_S3) $(GUARDED) $(BIN)/python tools/run_dag.py --preset "$$PRESET" --conf "$$CONF"

# By file, because the tests of a file share servers and results; grouping by mark has no effect with pytest 9.2. In their own order:
# sorted by their number of tests, files with a single long one would come last, one beside an idle worker.
test: setup ## Run the whole test suite
	@mkdir -p .cache; exec env -u AIRFLOW_HOME -u HPE_WORKSPACE -u HPE_CACHE HPE_STARTED_BY=$$PPID $(GUARD) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --basetemp=.cache/pytest $(ARGS)

ui: setup ## Start Airflow's UI; prints address and login, Ctrl-C stops it
	@$(WITH_S3) $(GUARDED) $(BIN)/python tools/ui.py --port $(PORT)

cluster: .venv/ready .venv-object-store/ready .venv-lambda/ready ## Run Airflow with PostgreSQL, Redis and two Celery workers; Ctrl-C stops it
	@$(GUARDED) $(BIN)/python -m tools.cluster up --home '$(CLUSTER_HOME)'

serve: PORT = 8090
serve: setup ## Serve a model on this machine (the sample, unless MODEL is named), with a page; Ctrl-C stops it
ifdef PACKAGE
	@$(GUARDED) $(GUARD) $(BIN)/hpe serve --port $(PORT) --package '$(PACKAGE)'
else
	@$(WITH_S3) $(GUARDED) $(BIN)/python tools/serve.py --name '$(MODEL)' --channel '$(CHANNEL)' --registry '$(REGISTRY)' \
	  --port $(PORT) $(if $(WITH_S3),--own-store)
endif

env: setup ## Print settings for a shell of your own, to be used as: eval "$$(make env)"
	@printf 'export %s\n' 'AIRFLOW_HOME=$(AIRFLOW_HOME)' 'HPE_WORKSPACE=$(HPE_WORKSPACE)' 'HPE_CACHE=$(HPE_CACHE)' \
	  'XDG_CACHE_HOME=$(XDG_CACHE_HOME)' 'MPLCONFIGDIR=$(MPLCONFIGDIR)' 'OMP_WAIT_POLICY=$(OMP_WAIT_POLICY)' 'PATH=$(CURDIR)/$(BIN):$$PATH'
	@echo 'unset PYTHONDONTWRITEBYTECODE'
	@$(WITH_S3) echo "$${exports-}"

stop: ## Stop the embedded S3 server
	@if [ -f .venv/ready ]; then $(STORE) stop; fi

lint: .venv/ready ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/ready ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .

docs: .venv/ready ## Build the documentation into .cache/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "$(CURDIR)/.cache/site/index.html"

sbom: setup ## Write bills of materials of all that ships to .cache/sbom; a licence that is not on the list is an error
	@$(BIN)/python tools/sbom.py

wheel: .venv/ready ## Build the wheel into dist; the same sources give the same bytes
	@$(BIN)/python tools/wheel.py

lock: $(UV) ## Resolve the dependencies anew into the hashed requirements.txt files
	@$(LOCK_311) --all-extras --group lambda pyproject.toml -o requirements.txt
	@$(LOCK_311) --extra scheduler --extra pages pyproject.toml -c requirements.txt -o docker/airflow/requirements.txt
	@$(LOCK_311) --extra worker pyproject.toml -c requirements.txt --override docker/worker/left-out.txt -o docker/worker/requirements.txt
	@$(LOCK_311) docker/object-store/requirements.in -o docker/object-store/requirements.txt
	@$(LOCK) --python-version 3.13 docker/lambda/requirements.in -o docker/lambda/requirements.txt
	@$(LOCK_LAMBDA) --python-platform x86_64-manylinux_2_28 -o hpe_tasks/packaging/requirements-x86_64.txt
	@$(LOCK_LAMBDA) --python-platform aarch64-manylinux_2_28 -o hpe_tasks/packaging/requirements-arm64.txt

clean: stop ## Remove everything that was generated, the libraries included
	@rm -rf .venv .venv-object-store .venv-lambda .cache .airflow .hpe build dist *.egg-info \
	  .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets above stand on: each file says that a part of the setup is done ---

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed (make setup PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet uv==$(UV_VERSION)

.venv/ready: requirements.txt pyproject.toml | $(UV)
	@echo "Installing the libraries …" >&2
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.venv-object-store/ready: docker/object-store/requirements.txt | .venv/ready
	@echo "Installing the S3 server …" >&2
	@$(UV) venv --quiet --clear --python $(BIN)/python .venv-object-store
	@$(UV) pip sync --quiet --python .venv-object-store/bin/python --require-hashes $<
	@touch $@

.venv-lambda/ready: docker/lambda/requirements.txt | .venv/ready
	@echo "Installing Lambda's emulator and SAM …" >&2
	@$(UV) venv --quiet --clear --python $(LAMBDA_PYTHON) .venv-lambda
	@$(UV) pip sync --quiet --python .venv-lambda/bin/python --require-hashes $<
	@touch $@

.airflow/ready: .venv/ready airflow.cfg
	@echo "Preparing Airflow …" >&2
	@mkdir -p .airflow
	@$(BIN)/airflow db migrate > .airflow/migrate.log 2>&1 || { cat .airflow/migrate.log >&2; exit 1; }
	@$(BIN)/airflow pools set gpu_pool 1 "One slot for each GPU worker" >> .airflow/migrate.log 2>&1
	@touch $@
