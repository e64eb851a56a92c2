# demo: a whole farm on this machine      check: lint, types, layers, docstrings
# test: every tier this machine can run, but for those that have a target of their own
# test-long: whole farms behind real Hubs, forked servers, schemas, pages    test-faults: the acceptance tests
# soak: starts, stops and faults for DURATION (10m, 24h)
# bench: side-by-side measurements into benchmark/results/
#
# Python is the first of python3.13 … python3.11, python3 that is at least 3.11; another one: make demo PYTHON=/path/to/python

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
MANIFEST := pyproject.toml jupyterhub_agentfarm/__init__.py
DEMO_DIR ?= demo
SCRATCH := $(CURDIR)/.cache
SOURCES := jupyterhub_agentfarm tests benchmark jupyterhub_config.py

# Some tools insist on a home that they can write to.
export PIP_CACHE_DIR ?= $(SCRATCH)/pip

.PHONY: demo test test-long test-faults soak check bench clean

demo: $(VENV)/.demo
	@exec $(BIN)/agentfarm demo --dir $(DEMO_DIR) $(if $(ONCE),--once)

# Parent of the processes that tests leave without one.
REAPER := $(BIN)/python tests/reaper.py

# Two files at a time: most tests wait more than they compute. JOBS=0: one after the other, in this process.
JOBS ?= 2
test: TIER := not hub and not long and not faults and not soak
test-long: TIER := (hub or long) and not faults and not soak
test test-long: $(VENV)/.test
	@sh tests/install_tiers.sh
	$(REAPER) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m '$(TIER)' $(ARGS)
	@$(if $(ARGS)$(filter test,$@),:,sh tests/netns_tier.sh $(REAPER) $(BIN)/python -m pytest -m 'netns and $(TIER)')

# The acceptance tests, at separate hosts; their table is printed, and kept in benchmark/results/.
FAULTS_RESULTS ?= $(CURDIR)/benchmark/results/faults-$(shell date +%F)
test-faults: $(VENV)/.test
	@sh tests/install_tiers.sh
	FAULTS_RESULTS="$(FAULTS_RESULTS)" $(REAPER) $(BIN)/python -m pytest -m 'faults and not soak' tests/faults $(ARGS)

DURATION ?= 10m
soak: $(VENV)/.test
	@sh tests/install_tiers.sh
	@seconds=$$(echo "$(DURATION)" | awk '/^[0-9]+[smhd]?$$/ {u = substr($$0, length); n = $$0 + 0; \
		print n * (u == "m" ? 60 : u == "h" ? 3600 : u == "d" ? 86400 : 1)}'); \
	[ -n "$$seconds" ] || { echo "make: DURATION is a number of seconds, or as in 10m, 24h, 7d" >&2; exit 1; }; \
	SOAK_SECONDS=$$seconds $(REAPER) $(BIN)/python -m pytest -m soak tests/faults/test_soak.py $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate -vv --omit-covered-files jupyterhub_agentfarm

bench: $(VENV)/.test
	@for script in benchmark/*.py; do \
		[ -e "$$script" ] || { echo "there are no measurements in benchmark/ yet" >&2; exit 0; }; \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.python:
	@python=$(PYTHON); \
	for candidate in python3.13 python3.12 python3.11 python3; do \
		[ -z "$$python" ] || break; \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; fi; \
	done; \
	[ -n "$$python" ] || { echo "make: Python 3.11 or newer is needed: install it (apt install python3), or name it with PYTHON=" >&2; exit 1; }; \
	"$$python" -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $$python cannot make virtual environments: apt install python3-venv" >&2; exit 1; }; \
	echo "Making $(VENV) with $$("$$python" -V) (once)" >&2; \
	"$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(MANIFEST) | $(VENV)/.python
	@[ -e $(VENV)/.test ] || echo "Installing jupyterhub-agentfarm and what its demo needs into $(VENV) (once, about a minute)" >&2
	@$(PIP) install -e '.[demo]'
	@touch $@

$(VENV)/.test: $(MANIFEST) | $(VENV)/.python
	@echo "Installing jupyterhub-agentfarm and what its tests need into $(VENV) (once, about two minutes)" >&2
	@$(PIP) install -e '.[test]'
	@touch $@ $(VENV)/.demo
