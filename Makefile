# Everything runs in .venv and deploy/toolchain/node_modules, both made here; no root, no system node.
PYTHON ?= python3
BIN := .venv/bin
NODE_MODULES := deploy/toolchain/node_modules
FORGE := $(NODE_MODULES)/@foundry-rs/forge-linux-amd64/bin/forge
WEB := api/web
NPM_CI := PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup dashboard demo test test-slow ipfs-tools test-ipfs flower coverage bench lint abi fmt clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed $(NODE_MODULES)/.installed dashboard ## install everything into the checkout

# Stamps are written last, so an interrupted installation is taken up again. The modules of byzfl that
# tests compare with need none of what its package asks for (torchvision, seaborn).
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or later is needed; this is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps byzfl
	@touch $@

$(NODE_MODULES)/.installed: deploy/toolchain/package-lock.json .venv/.installed
	cd deploy/toolchain && $(NPM_CI)
	@touch $@

$(WEB)/node_modules/.installed: $(WEB)/package-lock.json .venv/.installed
	cd $(WEB) && $(NPM_CI)
	@touch $@

$(WEB)/dist/.built: $(WEB)/node_modules/.installed $(WEB)/index.html $(WEB)/vite.config.ts $(shell find $(WEB)/src $(WEB)/public -type f ! -name openapi.d.ts)
	cd $(WEB) && PATH="$(CURDIR)/$(BIN):$$PATH" npm run --silent build -- --logLevel warn
	@touch $@

dashboard: $(WEB)/dist/.built ## build the pages that the API serves at /

demo: setup ## the whole market on a local chain; options in ARGS
	@$(BIN)/tribute demo $(ARGS)

lint: setup ## style, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(FORGE) fmt --check contracts tests/contracts
	FOUNDRY_SOLC=$(CURDIR)/$(BIN)/tribute-solc $(FORGE) lint --deny warnings contracts

# Two processes: half of the time passes in waiting for chains, browsers and windows that end.
test: lint ## every check of the default run
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: setup ## checks that take minutes
	$(BIN)/python -m pytest -m slow

# Real IPFS nodes and a client, apart from everything else; CI keeps the folder between runs.
IPFS_TOOLS ?= $(CURDIR)/build/ipfs-tools
REAL_IPFS := tests/ipfs/real

ipfs-tools: .venv/.installed
	@cmp -s $(REAL_IPFS)/package-lock.json $(IPFS_TOOLS)/package-lock.json \
		&& cmp -s $(REAL_IPFS)/requirements.txt $(IPFS_TOOLS)/installed.txt || { set -e; \
		rm -rf $(IPFS_TOOLS)/node_modules $(IPFS_TOOLS)/venv $(IPFS_TOOLS)/installed.txt; mkdir -p $(IPFS_TOOLS); \
		cp $(REAL_IPFS)/package.json $(REAL_IPFS)/package-lock.json $(REAL_IPFS)/.npmrc $(IPFS_TOOLS); \
		(cd $(IPFS_TOOLS) && $(NPM_CI)); \
		$(BIN)/python -m venv $(IPFS_TOOLS)/venv; \
		$(IPFS_TOOLS)/venv/bin/pip install --quiet --no-deps --requirement $(REAL_IPFS)/requirements.txt; \
		cp $(REAL_IPFS)/requirements.txt $(IPFS_TOOLS)/installed.txt; }

test-ipfs: setup ipfs-tools ## run the store against real IPFS nodes (3 minutes to install)
	TRIBUTE_IPFS_TOOLS=$(IPFS_TOOLS) TRIBUTE_KUBO=$${TRIBUTE_KUBO:-js-ipfs} TRIBUTE_REQUIRE=kubo,js-ipfs \
		$(BIN)/python -m pytest tests/ipfs/test_kubo.py tests/ipfs/test_real_nodes.py

# Flower asks for other versions of packages than ours, so that it has an environment of its own.
FLOWER := build/flower

flower: .venv/.installed ## install Flower and Ray apart, for `tribute lab compare`
	@cmp -s deploy/lab/flower.txt $(FLOWER)/installed.txt || { set -e; \
		rm -rf $(FLOWER); $(BIN)/python -m venv $(FLOWER); \
		$(FLOWER)/bin/pip install --quiet --no-deps --requirement deploy/lab/flower.txt; \
		cp deploy/lab/flower.txt $(FLOWER)/installed.txt; }

CORE := */codec.py,*/cid.py,*/peel.py,*/scoring.py,*/payout.py,*/ledger.py,*/aggregate.py,*/training.py
CORE := $(CORE),*/proof/commitment.py,*/proof/correlation.py,*/proof/field.py
CORE := $(CORE),*/proof/prover.py,*/proof/transcript.py,*/proof/verifier.py

coverage: setup ## show that every branch of the pure core is tested
	$(BIN)/python -m coverage run -m pytest -q -m "not slow" tests/marketplace tests/aggregator tests/trainer tests/ipfs/test_cid.py
	$(BIN)/python -m coverage report --show-missing --fail-under=100 --include='$(CORE)'

bench: setup ## measure, and write build/bench.json and build/bench.md
	$(BIN)/python -m tests.bench $(ARGS)

abi: setup ## write contracts/abi anew after a change of the contracts
	$(BIN)/python -m deploy.compile

fmt: setup ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(FORGE) fmt contracts tests/contracts

clean: ## remove what the targets made
	rm -rf .venv $(NODE_MODULES) $(WEB)/node_modules $(WEB)/dist build .tribute
