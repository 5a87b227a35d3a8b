# Everything runs from .venv, which is made here and nowhere else. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# What is installed for good runs by the machine's own Python.
SYSTEM_PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help demo test check docs format fastpath peers interop soak bench install uninstall deb container clean

# Tests that make network namespaces need privileges. An ordinary user has them inside a user
# namespace, with a network and mounts of its own, where the machine allows that. LOGNAME keeps
# pytest's temporary folder apart from root's, whom they look like there.
define pytest
	if [ "$$(id -u)" = 0 ]; then \
		exec $(BIN)/python -m pytest $(1); \
	elif unshare --user --map-root-user --net --mount true 2>/dev/null; then \
		LOGNAME=$$(id -un) exec unshare --user --map-root-user --net --mount sh -c 'ip link set lo up && exec "$$@"' sh \
			$(BIN)/python -m pytest $(1); \
	else \
		echo 'This machine forbids user namespaces (on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0' \
			'allows them), so the tests that need one are skipped; root runs them all.'; \
		exec $(BIN)/python -m pytest $(1); \
	fi
endef

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.* ## /\1\t/p' Makefile | expand -t 12

demo: .venv/ready ## show two tenants with the same addresses, isolated and connected, in under two minutes
	@command -v ip >/dev/null || { echo 'The demo needs the command ip: sudo apt install iproute2'; exit 1; }
	@$(BIN)/isthmus demo

test: check ## run the checks, then every test that fits in twenty minutes
	@$(call pytest,$(TESTS))

check: .venv/installed ## check format, lint, types, imports, and the programs for the kernel against their C
	@$(BIN)/python -m ruff format --check --quiet . || { echo 'make format puts that right'; exit 1; }
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m gateway.fastpath.build --check gateway tests

docs: .venv/installed ## write what the documents have from the code
	@$(BIN)/python -m docs.generate

format: .venv/installed ## put format and order of imports right
	@$(BIN)/python -m ruff check --quiet --select I --fix .
	@$(BIN)/python -m ruff format .

fastpath: .venv/installed ## build the programs for the kernel from their C; needs clang and the kernel's headers
	@$(BIN)/python -m gateway.fastpath.build gateway tests

PEERS := charon-systemd chromium clang etcd-client etcd-server ethtool iperf3 iproute2 iputils-ping iputils-tracepath \
	libcharon-extra-plugins libstrongswan-extra-plugins linux-libc-dev nftables openvswitch-switch prometheus \
	strongswan-swanctl tcpdump traceroute tshark udhcpc wrk

peers: ## install the real peers and tools that tests use (Debian or Ubuntu, as root)
	@[ "$$(id -u)" = 0 ] || { echo 'Installing packages needs root: sudo make peers'; exit 1; }
	@command -v apt-get >/dev/null || { echo 'This is not Debian or Ubuntu; install by other means: $(PEERS)'; exit 1; }
	apt-get -qq update
	@# strongSwan, etcd and Prometheus come with services that would take their ports. Whoever had one already keeps it.
	@new=; for service in strongswan etcd prometheus; do \
		[ ! -d /run/systemd/system ] || systemctl cat $$service.service >/dev/null 2>&1 || new="$$new $$service.service"; done; \
	DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $(PEERS) </dev/null && \
	{ [ -z "$$new" ] || systemctl disable --quiet --now $$new; }

interop: .venv/installed ## run the tests against real peers; a missing one is a failure
	@export ISTHMUS_REQUIRE_PEERS=1; $(call pytest,-m interop $(TESTS))

soak: .venv/installed ## run the long tests: mutated inputs, properties, a day; TESTS=tests/soak: half an hour in the lab
	@export ISTHMUS_FUZZ_INPUTS=10000000 ISTHMUS_HYPOTHESIS=long; $(call pytest,-m soak $(TESTS))

bench: .venv/installed ## measure, print a table and write build/bench.json
	@$(BIN)/python -m tests.bench

install: ## install for this machine's own Python (PREFIX=/usr/local, DESTDIR); needs a package index
	@packaging/install '$(abspath $(DESTDIR))' $(PREFIX) $(SYSTEM_PYTHON)

uninstall: ## take away what `make install` put there
	@packaging/uninstall '$(abspath $(DESTDIR))' $(PREFIX)

deb: ## build build/isthmus_VERSION_ARCHITECTURE.deb; needs a package index
	@packaging/deb $(SYSTEM_PYTHON)

container: ## build the image isthmus by packaging/Containerfile, with podman or docker
	@engine=$$(command -v podman || command -v docker) || { echo 'There is neither podman nor docker here'; exit 1; }; \
		$$engine build --tag isthmus --file packaging/Containerfile .

clean: ## remove whatever was made here
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo needs no development tools, so a newcomer does not wait for them.
define install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '$(1)' || \
		{ echo 'pip could not install what pyproject.toml names: it needs a package index, by network or by its own configuration.'; exit 1; }
endef

.venv/ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo 'There is no $(PYTHON) here: sudo apt install python3 python3-venv'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Isthmus needs Python 3.11 or newer: name one as in make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'Python can make no virtual environment here: sudo apt install python3-venv'; exit 1; }
	@$(PYTHON) -m venv .venv
	@echo 'Installing into .venv ...'
	@$(call install,.)
	@touch $@

.venv/installed: .venv/ready
	@echo 'Installing the development tools ...'
	@$(call install,.[dev])
	@touch $@
