# Everything runs in .venv and deploy/toolchain/node_modules, both made here; no root, no system node.
PYTHON ?= python3
BIN := .venv/bin
NODE_MODULES := deploy/toolchain/node_modules

export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow coverage bench lint abi fmt clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed $(NODE_MODULES)/.installed ## install everything into the checkout

# Stamps are written last, so an interrupted installation is taken up again.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or later is needed; this is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(NODE_MODULES)/.installed: deploy/toolchain/package-lock.json .venv/.installed
	cd deploy/toolchain && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

demo: setup ## the whole market on a local chain; options in ARGS
	@$(BIN)/tribute demo $(ARGS)

lint: setup ## style, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## every check of the default run
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup ## checks that take minutes
	$(BIN)/python -m pytest -m slow

CORE := */codec.py,*/scoring.py,*/payout.py,*/commitment.py,*/aggregate.py,*/training.py

coverage: setup ## show that every branch of the pure core is tested
	$(BIN)/python -m coverage run -m pytest -q -m "not slow" tests/marketplace tests/aggregator tests/trainer
	$(BIN)/python -m coverage report --show-missing --fail-under=100 --include='$(CORE)'

bench: setup ## measure, and write build/bench.json and build/bench.md
	$(BIN)/python -m tests.bench $(ARGS)

abi: setup ## write contracts/abi anew after a change of the contracts
	$(BIN)/python -m deploy.compile

fmt: setup ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the targets made
	rm -rf .venv $(NODE_MODULES) build .tribute
