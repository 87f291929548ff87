# Everything a developer runs. `make` alone lists it.
# Variables: PYTHON (made of .venv), HOST and PORT (demo), ARGS (more arguments for pytest), WORKERS (of the test suite).

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-fleet test test-all browser-test check audit bench mutants simulate chaos docs build clean

# $(call find-python,names): shell words that print the first interpreter on PATH which really runs (a pyenv
# shim may not), is new enough, and can make environments.
find-python = IFS=:; for name in $(1); do for dir in $$PATH; do \
    "$$dir/$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
    && { echo "$$dir/$$name"; exit; }; done; done

# Looked for only when an environment has to be made.
PYTHON ?= $(shell $(call find-python,python3 python3.13 python3.12 python3.11))
VERSIONS := 3.11 3.12 3.13
RUN := .venv/bin/python -m
# Each file stays in one process. The suite mostly waits, for processes that are frozen and killed, so three do for two cores.
WORKERS ?= 3
SUITE := pytest -n $(WORKERS) --dist loadfile

# $(call environment,group,constraint files): makes or updates the environment that the target's stamp stands in.
# The build back end is installed first and used from there, so that it is pinned like everything else.
define environment
@$(@D)/bin/python -c 'import pip' 2>/dev/null || { python='$(PYTHON)'; \
    test -n "$$python" || { echo "No Python 3.11 or newer with venv found on PATH. Install one, or say: make PYTHON=/path/to/python"; exit 1; } >&2; \
    echo "Making $(@D) with $$python"; "$$python" -m venv --clear $(@D); }
@echo "Installing into $(@D)"
@$(@D)/bin/python -m pip install -q --upgrade pip $(2:%=-c %)
@$(@D)/bin/python -m pip install -q --group $(1) $(2:%=-c %)
@$(@D)/bin/python -m pip install -q --no-build-isolation -e '.[server,redis]' $(2:%=-c %)
@touch $@
endef

.venv/.ready $(VERSIONS:%=.venv-%/.ready): pyproject.toml constraints/dev.txt
	$(call environment,dev,constraints/dev.txt)

.venv-audit/.ready: pyproject.toml constraints/dev.txt constraints/audit.txt
	$(call environment,audit,constraints/dev.txt constraints/audit.txt)

.venv-bench/.ready: pyproject.toml constraints/dev.txt constraints/bench.txt
	$(call environment,bench,constraints/dev.txt constraints/bench.txt)

# What the tests show to be broken, beside everything else; no environment of its own.
.venv-control/.ready: constraints/control.txt | .venv/.ready
	@echo "Installing into $(@D)"
	@$(RUN) pip install -q --upgrade --no-deps --target $(@D) -r $<
	@touch $@

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/.ready ## make .venv, with the package editable in it
	@:

demo: setup ## run the demo and print the address to open (HOST=, PORT=)
	@$(RUN) examples.docs_agent $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

demo-fleet: setup ## the same on a Redis: three server processes behind one address, one that works (HOST=, PORT=)
	@$(RUN) examples.fleet $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

test: setup .venv-control/.ready ## run the whole suite; what was skipped is listed with its reason (ARGS=)
	@$(RUN) $(SUITE) $(ARGS)

browser-test: setup ## run only the tests that need Chromium
	@$(RUN) pytest -m browser $(ARGS)

test-all: .venv-control/.ready ## run the suite on every supported Python that this machine has
	@failed=; for version in $(VERSIONS); do \
	    python=$$($(call find-python,python$$version)); \
	    for candidate in "$$HOME"/.pyenv/versions/$$version*/bin/python; do \
	        test -z "$$python" && "$$candidate" -c 'import ensurepip' 2>/dev/null && python=$$candidate; \
	    done; \
	    test -n "$$python" || { summary="$$summary\n  Python $$version: not found, so not run"; continue; }; \
	    printf '\nPython %s: %s\n' $$version "$$python"; \
	    if $(MAKE) PYTHON="$$python" .venv-$$version/.ready && .venv-$$version/bin/python -m $(SUITE) $(ARGS); \
	    then summary="$$summary\n  Python $$version: passed"; \
	    else summary="$$summary\n  Python $$version: FAILED"; failed=1; fi; \
	done; printf "\nIn all:$$summary\n"; test -z "$$failed"

check: setup ## lint, formatting, types
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy

audit: .venv-audit/.ready ## check the pinned versions against the advisories, where those can be reached
	@.venv-audit/bin/python -m tests.audit

bench: .venv-bench/.ready ## run the benchmarks, beside their peers (ARGS=)
	@.venv-bench/bin/python -m benchmarks.run $(ARGS)

mutants: setup ## check that the tests kill the seeded bugs
	@$(RUN) tests.mutants $(ARGS)

simulate: setup ## the whole stack under seeded faults in virtual time (SEEDS=)
	@$(RUN) tests.simulation --seeds $(or $(SEEDS),500) $(ARGS)

chaos: setup ## real processes on a Redis that is killed, frozen and rolled back, a row for each mode (ROW=seconds)
	@$(RUN) tests.redis.fleet.chaos --seconds $(or $(ROW),20) --quiet $(ARGS)

docs: setup ## build the documentation into build/site
	@$(RUN) mkdocs build --strict --site-dir build/site

build: setup ## build the wheel and the sdist into dist/
	@rm -rf dist
	@$(RUN) build --no-isolation --outdir dist

clean: ## remove everything that make created, environments included
	@rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
