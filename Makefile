# Every target works alone on a fresh Debian 12 machine with Python 3.11 and cargo; what is done already is not done again.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMPS := target/stamps
CARGO := cargo
MANIFEST := --manifest-path engine/Cargo.toml
PYTEST := $(BIN)/python -m pytest

export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

RUST_SOURCES := $(shell find engine/src -name '*.rs' 2>/dev/null)

.PHONY: help setup run test test-rust test-python test-long check bench lock clean docs wheel deb

help:
	@echo 'make setup      Debian packages (as root), .venv, engine; leaves .venv/bin/vpool'
	@echo 'make run        a vPool under ./run, tried out for you; stays up until Ctrl-C'
	@echo 'make test       all tests but the long ones; test-long: those'
	@echo 'make check      lint, format, types, import rules, stub, generated pages'
	@echo 'make bench      measure against references in the same run'
	@echo 'make wheel      dist/vpool-*.whl, and dist/wheels with what it needs;  make deb: a Debian package'
	@echo 'make docs       write the generated pages again;  make lock: the lock files'
	@echo 'make clean      remove what was built (not ./run)'

setup: $(STAMPS)/package $(STAMPS)/rust-tools

$(STAMPS)/system: scripts/system-packages.sh
	@mkdir -p $(STAMPS)
	scripts/system-packages.sh $(PYTHON)
	touch $@

$(STAMPS)/venv: $(STAMPS)/system requirements/lock.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --require-hashes -r requirements/lock.txt
	touch $@

# An editable install: the rooms are imported from here, and the engine's module is built into engine/.
$(STAMPS)/package: $(STAMPS)/venv pyproject.toml engine/Cargo.toml engine/Cargo.lock $(RUST_SOURCES)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-build-isolation --editable .
	touch $@

$(STAMPS)/rust-tools: $(STAMPS)/system
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
	$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	touch $@

# The tests start a real OpenStack Swift; it has an environment of its own.
$(STAMPS)/swift: $(STAMPS)/system requirements/swift-server.txt tests/swift/setup.sh
	@PYTHON=$(PYTHON) tests/swift/setup.sh .venv-swift
	touch $@

# The POSIX suite that tests/clients/test_pjdfstest.py runs on the mount.
$(STAMPS)/pjdfstest: $(STAMPS)/system
	@$(CARGO) install --quiet --locked --root target/tools --version 0.2.2 pjdfstest
	touch $@

run: setup
	@exec $(BIN)/python -m vpool.demo run

test: test-rust
	@$(MAKE) --no-print-directory test-python

test-rust: setup
	$(CARGO) test --quiet --locked $(MANIFEST)

test-python: setup $(STAMPS)/swift $(STAMPS)/pjdfstest
	$(PYTEST) -m 'not long'

test-long: setup $(STAMPS)/swift $(STAMPS)/pjdfstest
	$(PYTEST) -m long

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(CARGO) fmt $(MANIFEST) --check
	$(CARGO) clippy --quiet --locked --all-targets $(MANIFEST) -- -D warnings
	$(CARGO) clippy --quiet --locked --all-targets --features python $(MANIFEST) -- -D warnings
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml engine._native
	$(BIN)/python -m vpool.settings_page --check docs/settings.md
	$(BIN)/python -m admin.watching.pages --check docs

bench: setup
	@$(BIN)/python -m bench

docs: setup
	$(BIN)/python -m vpool.settings_page --write docs/settings.md
	$(BIN)/python -m admin.watching.pages --write docs

wheel: setup
	@packaging/wheels.sh $(BIN)/python

deb: wheel
	@packaging/deb.sh $(BIN)/python

lock: $(STAMPS)/venv
	@common='--quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate'
	$(BIN)/uv pip compile $$common --custom-compile-command 'make lock' --extra dev pyproject.toml -o requirements/lock.txt
	$(BIN)/uv pip compile $$common --custom-compile-command 'make lock' --constraints requirements/lock.txt pyproject.toml \
	    -o requirements/runtime.txt
	$(BIN)/uv pip compile $$common --custom-compile-command 'make lock' requirements/swift-server.in -o requirements/swift-server.txt
	$(CARGO) generate-lockfile $(MANIFEST)

clean:
	rm -rf target dist $(VENV) .venv-swift .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache engine/_native*.so
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
