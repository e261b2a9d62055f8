# Everything here makes its own virtual environment in .venv; what it needs from the system it names when it is missing.
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGIN_DIR := $(DESTDIR)/opt/cni/bin
STATE_DIR := $(or $(HEADCNI_STATE_DIR),/var/lib/headcni)
FORM ?= launcher

.PHONY: help demo test test-peers peers bench fmt vet lint check docs build install uninstall image bundle wheel manifests clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## two nodes, some pods, a kill, a delete without a daemon: a few seconds to see what HeadCNI is
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

# Exit code 3 says that something is missing, or that an image failed its trial; anything else is a fault and ends it.
BUILD_plain = $(BIN)/python -m deploy.plugin_file build/headcni
BUILD_launcher = $(BIN)/python -m deploy.launcher.build build/headcni || { test $$? = 3 && \
	echo "so the plugin is made as a plain file, which needs a Python on each host" >&2 && $(BUILD_plain); }
BUILD_image = $(BIN)/python -m deploy.memory_image.build build/headcni || { test $$? = 3 && \
	echo "so the plugin is made as the launcher, which starts more slowly" >&2 && { $(BUILD_launcher); }; }

build: $(STAMP) ## the plugin as one static file, in build/; FORM=plain (needs a Python on the host), FORM=image (docs/performance.md)
	$(if $(BUILD_$(FORM)),,$(error FORM=$(FORM) is unknown: plain, launcher or image))
	@mkdir -p build
	@$(BUILD_$(FORM))
	@ln -sf headcni build/headcni-ipam

# DESTDIR is a root that is being put together: it gets the files, and nothing is done to this machine.
install: build ## the plugin into /opt/cni/bin, or only the files into DESTDIR/opt/cni/bin
ifeq ($(DESTDIR),)
	@mkdir -p $(PLUGIN_DIR) $(STATE_DIR)
	$(BIN)/headcni install --plugin build/headcni
else
	install -D -m 0755 build/headcni $(PLUGIN_DIR)/headcni
	install -D -m 0755 build/headcni $(PLUGIN_DIR)/headcni-ipam
endif

uninstall: ## this node as it was before HeadCNI; the daemon must be stopped; ARGS=--purge cuts off pods that are left
ifeq ($(DESTDIR),)
	$(BIN)/headcni uninstall $(ARGS)
else
	rm -f $(PLUGIN_DIR)/headcni $(PLUGIN_DIR)/headcni-ipam
endif

image: $(STAMP) ## the container image as an OCI archive, in build/, without a container engine; ARGS=--help lists options
	@mkdir -p build
	$(BIN)/python -m deploy.image.build build/headcni-image.tar $(ARGS)

bundle: $(STAMP) ## daemon, command and plugin in one directory, for hosts without Python or glibc, in build/
	@mkdir -p build
	$(BIN)/python -m deploy.bundle.build build/headcni-bundle.tar.gz $(ARGS)

wheel: $(STAMP) ## daemon and command for hosts with Python, in build/
	@rm -rf build/lib build/bdist.* # setuptools would take what an earlier build left there
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build .
	@rm -rf build/lib build/bdist.*

manifests: $(STAMP) ## print what is in deploy/manifests/ from the chart anew
	$(BIN)/python -m fixtures.peers.build helm
	$(BIN)/python -m deploy.manifests

clean: ## remove what was built
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
