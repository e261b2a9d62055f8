# Everything here makes its own virtual environment in .venv; what it needs from the system it names when it is missing.
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGIN_DIR := $(DESTDIR)/opt/cni/bin

.PHONY: help demo test test-peers peers bench fmt vet lint check docs build install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## two nodes, some pods, a kill, a delete without a daemon: half a minute to see what HeadCNI is
	$(BIN)/python -m fixtures.demo

test: $(STAMP) ## every test that needs no compiler: pure, kube, mesh, kernel and crash tiers (root, or a user namespace)
	$(BIN)/python -m fixtures.system $(BIN)/python -m pytest tests/pure tests/kube tests/mesh tests/kernel tests/crash $(ARGS)

peers: $(STAMP) ## build and cache the real peers: Kubernetes, containerd, Tailscale, Headscale, the standard plugins
	$(BIN)/python -m fixtures.peers.build

test-peers: peers ## the same contracts against the real peers
	HEADCNI_REQUIRE_PEERS=1 $(BIN)/python -m pytest tests/peers --timeout 600 $(ARGS)

bench: $(STAMP) ## side by side with ptp and bridge, ratios first
	$(BIN)/python -m benchmarks $(ARGS)

fmt: $(STAMP) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

vet: $(STAMP) ## types and the direction of imports
	$(BIN)/mypy
	$(BIN)/lint-imports

lint: $(STAMP) ## style; fails on what `make fmt` would change
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

docs: $(STAMP) ## print the generated parts of docs/ anew
	$(BIN)/python -m reconciler.operate.docs

build: $(STAMP) ## the plugin as one executable file, in build/
	@mkdir -p build
	$(BIN)/python -m deploy.plugin_file build/headcni
	ln -sf headcni build/headcni-ipam

install: build ## the plugin into DESTDIR/opt/cni/bin
	install -d $(PLUGIN_DIR)
	install -m 0755 build/headcni $(PLUGIN_DIR)/.headcni.new
	mv -f $(PLUGIN_DIR)/.headcni.new $(PLUGIN_DIR)/headcni
	install -m 0755 build/headcni $(PLUGIN_DIR)/.headcni-ipam.new
	mv -f $(PLUGIN_DIR)/.headcni-ipam.new $(PLUGIN_DIR)/headcni-ipam

uninstall: ## remove the plugin from DESTDIR/opt/cni/bin
	rm -f $(PLUGIN_DIR)/headcni $(PLUGIN_DIR)/headcni-ipam

clean: ## remove what was built
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
