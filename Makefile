# FlowBinding. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
IMAGE ?= flowbinding/flowbinding:dev

# The working directory must not win over installed packages: a folder here is called `operator`.
export PYTHONSAFEPATH := 1
TESTBED := PYTHONPATH=tests $(BIN)/python -m testbed

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^[a-z0-9-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)}' $(MAKEFILE_LIST)

.PHONY: install
install: .venv/.installed ## Make the virtual environment (.venv) from locked dependencies

.venv/.installed: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "FlowBinding needs Python 3.11 or newer; set PYTHON=... (found: $$($(PYTHON) --version))"; exit 1; }
	@echo "Installing the Python environment (about two minutes once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

##@ Use it

.PHONY: demo
demo: install ## Three chained flows, bursts of messages, 0 to N to 0 workers
	@PYTHONPATH=tests:examples/loan $(BIN)/python -m demo $(DEMO)

.PHONY: example
example: install ## Run one of examples/: NAME=consumer, schedule or secured
	@PYTHONPATH=tests $(BIN)/python examples/run.py $(NAME)

.PHONY: up
up: install ## Start a real Kafka and Kubernetes (kind if KUBECONFIG says so)
	@$(TESTBED) up

.PHONY: down
down: install ## Stop the testbed and remove its data
	@$(TESTBED) down

.PHONY: status
status: install ## Show what of the testbed runs
	@$(TESTBED) status

.PHONY: kind-up
kind-up: install ## Create a kind cluster for the demo (needs Docker and kind)
	@$(TESTBED) kind-up

.PHONY: kind-down
kind-down: install ## Delete the kind cluster
	@$(TESTBED) kind-down

##@ Check it

.PHONY: test
test: lint types verify unit integration e2e ## Everything that CI runs

.PHONY: lint
lint: install ## Style, layers between modules, Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/lint-imports
	@$(BIN)/hadolint Dockerfile

.PHONY: types
types: install ## mypy, strict, tests included
	@$(BIN)/mypy

.PHONY: verify
verify: install ## Generated files are up to date
	@$(BIN)/python crds/generate.py --check
	@$(BIN)/python charts/values_table.py --check
	@$(BIN)/python examples/loan/make_flows.py --check

.PHONY: unit
unit: install ## Fast tests without any server
	@$(BIN)/pytest -n 2 tests/unit

.PHONY: integration
# They wait more than they work: five at once. Tests of one file share what they start.
integration: install ## Worker and lag client on a real broker, flows on real engines
	@$(BIN)/pytest -n 5 --dist loadfile tests/integration

.PHONY: e2e
# Three at once; then, one by one, those that stop what the others need or count what it does.
e2e: install ## Operator, chart and CRD on a real API server
	@$(BIN)/pytest -n 3 --dist worksteal -m "not alone" tests/e2e
	@$(BIN)/pytest -m alone tests/e2e

##@ Measure it

.PHONY: bench
bench: bench-worker bench-scaling bench-render bench-local ## All benchmarks

.PHONY: bench-worker
bench-worker: install ## The worker against others, 9 min; BENCH=--quick, BENCH=--help
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m worker $(BENCH)

.PHONY: bench-render
bench-render: install ## Messages of 1 KiB that one process renders in a second, 15 s
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m render

.PHONY: bench-local
bench-local: install ## CPU time and memory of flows in the worker itself, 2 min; LOCAL="--runs 100"
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m local $(LOCAL)

.PHONY: bench-scaling
bench-scaling: install ## Scaling policies in simulation, 5 min; SCALING=--full
	@PYTHONPATH=benchmarks $(BIN)/python -m scaling --write $(SCALING)

.PHONY: bench-burst
bench-burst: install ## A burst of 4,800 messages from zero, five times, 2 min; BURST=--write
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m scale.burst $(BURST)

.PHONY: bench-looks
bench-looks: install ## A look of the operator at 500 consumer groups, 1 min; LOOKS=--help
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m scale.looks $(LOOKS)

.PHONY: scale
scale: install ## The operator with 1,000 bindings, 5 min; SCALE=--help
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m scale $(SCALE)

##@ Change it

.PHONY: fmt
fmt: install ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

.PHONY: generate
generate: install ## Write what is generated: CRD, chart, reference, example flows
	@$(BIN)/python crds/generate.py
	@$(BIN)/python charts/values_table.py
	@$(BIN)/python examples/loan/make_flows.py

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: lock
lock: ## Resolve the dependencies anew (needs uv)
	$(LOCK) --extra dev pyproject.toml -o requirements/dev.lock
	$(LOCK) --constraint requirements/dev.lock --extra operator --extra worker --extra cli pyproject.toml -o requirements/image.lock
	$(LOCK) --constraint requirements/dev.lock --extra operator --extra local --extra cli pyproject.toml -o requirements/local.lock
	@sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | $(LOCK) - -o requirements/build.lock
	$(LOCK) requirements/langflow-server.in -o requirements/langflow-server.lock
	$(LOCK) --constraint requirements/dev.lock requirements/bench.in -o requirements/bench.lock

.PHONY: image
image: ## Build the container image (needs Docker)
	docker build --target runtime -t $(IMAGE) .

.PHONY: clean
clean: ## Remove everything that was made here
	@test ! -x $(BIN)/python || $(TESTBED) down || true
	@rm -rf .venv .testbed dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
