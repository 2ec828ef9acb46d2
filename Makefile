# make demo      one customer's life against the whole product, on this machine
# make test      everything that must hold before a change lands
# The rest are parts of these two, or tools for maintainers; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export SAM_CLI_TELEMETRY = 0
# Nothing here concerns an account of yours; the SAM CLI would look this up all the same.
unexport AWS_PROFILE AWS_DEFAULT_PROFILE

PYTHON ?= python3
# The tests run on Lambda's own version; found on PATH or among pyenv's versions.
PYTHON313 ?= $(shell for p in python3.13 "$${PYENV_ROOT:-$${HOME:-}/.pyenv}"/versions/3.13.*/bin/python3.13; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && command -v "$$p" && break; done)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes

.PHONY: help
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make demo             one customer's life, step by step (Python >= 3.11 is all it needs)
.PHONY: demo
demo: .venv-local/ready
	@.venv-local/bin/python -m tests.local demo

## make serve            the local stack; one JSON line when ready (BIND_ADDRESS, PORT, STRIPE_API_BASE)
.PHONY: serve
serve: .venv-local/ready
	@exec .venv-local/bin/python -m tests.local serve

## make test             lint, types, all tests, coverage, sam validate, sam build twice, end to end on the build
.PHONY: test
test: lint test-source validate test-built

## make lint             ruff and mypy
.PHONY: lint
lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

MODELS := tests/workflow/test_interleavings.py tests/workflow/test_lives.py tests/workflow/test_costs.py \
	tests/workflow/test_fulfillment_errors.py tests/workflow/test_offboarding_failures.py \
	tests/workflow/test_offboarding.py tests/workflow/test_reconciliation.py tests/workflow/test_reconciliation_kills.py \
	tests/unit/test_differences.py

# What the other tests stand on: the local stack, with the demo on it, and the stand-in of Stripe. And what each function
# loads, in a process of its own.
STACK := tests/e2e/test_local_stack.py tests/e2e/test_custom_resources.py tests/e2e/test_map_runs.py \
	tests/e2e/test_population.py tests/e2e/test_demo.py tests/unit/test_stripe_standin.py \
	tests/template/test_import_lists.py

# What takes minutes, end to end on the sources. The rest runs on what sam build made.
LOAD := tests/e2e/test_load.py tests/e2e/test_dapps.py tests/e2e/test_reconciliation.py tests/e2e/test_permissions.py \
	tests/e2e/test_personal_data.py tests/e2e/test_deployment.py tests/e2e/test_alarms.py tests/e2e/test_operators.py
E2E_BUILT := $(filter-out $(STACK) $(LOAD),$(wildcard tests/e2e/test_*.py))

## make test-source      unit, workflow and template, with branch coverage of functions/
.PHONY: test-source
test-source: .venv/ready
	rm -f .coverage .coverage.*
	.venv/bin/pytest -n 2 --dist loadfile \
		$(foreach each,$(MODELS) $(STACK) $(LOAD) $(E2E_BUILT) tests/containers tests/deploy,--ignore $(each)) \
		--cov --cov-report=
	.venv/bin/coverage report --fail-under=100 \
		--include='functions/gateway/access.py,functions/gateway/drift.py,functions/gateway/events.py'
	.venv/bin/coverage report --fail-under=90

## make test-stack       what the tests stand on: the local stack, the demo, the stand-in of Stripe; what each function loads
.PHONY: test-stack
test-stack: .venv/ready
	.venv/bin/pytest -n 2 --dist loadfile $(STACK)

## make test-load        500 events while every service refuses now and then; a thousand people reconciled; rights; traces; alarms; operators; deployments (minutes)
.PHONY: test-load
test-load: .venv/ready
	.venv/bin/pytest -n 2 --dist loadfile $(LOAD)

## make test-containers  every function in Lambda's container, by the SAM CLI; a purchase (minutes; Docker, or root on Debian)
.PHONY: test-containers
test-containers: .venv/ready .venv-sam/ready .venv-runtime/ready .venv-local/ready
	PATH="$(CURDIR)/.venv-sam/bin:$$PATH" .venv/bin/python -m tests.containers .venv-runtime/lib/python3.13/site-packages

## make test-models      every interleaving of two runs, random lives, every failure, reconciliation, the cost of every event, fuzzing (minutes)
.PHONY: test-models
test-models: .venv/ready
	.venv/bin/pytest -n 2 -m "not exhaustive" $(MODELS)
	FUZZ=2000 .venv/bin/pytest -n 2 tests/unit/test_fuzzing.py

## make test-exhaustive  more of make test-models: kills at every point for two customers too, ten times the lives
.PHONY: test-exhaustive
test-exhaustive: .venv/ready
	.venv/bin/pytest -m exhaustive

## make test-mutants     every mutant of access.py, drift.py and events.py is killed, or explained in tests/mutants.toml (minutes)
.PHONY: test-mutants
test-mutants: .venv/ready
	@.venv/bin/python -m tests.mutants

## make bench            measures everything side by side, into the README: tables and tests/bench/results.svg (an hour)
.PHONY: bench
bench: .venv-bench/ready .venv-sam/ready .venv-runtime/ready build/usual/ready
	@PATH="$(CURDIR)/.venv-sam/bin:$$PATH" .venv-bench/bin/python -m tests.bench

## make validate         sam validate --lint
.PHONY: validate
validate: .venv-sam/ready
	.venv-sam/bin/sam validate --lint

## make test-built       sam build twice, compared byte by byte, and the end-to-end suite on the artefacts
.PHONY: test-built
test-built: .venv/ready .venv-sam/ready .venv-runtime/ready
	PATH="$(CURDIR)/.venv-sam/bin:$$PATH" .venv/bin/python -m tests.build build
	E2E_BUILT="$(CURDIR)/build/first/.aws-sam/build" E2E_PYTHON="$(CURDIR)/.venv-runtime/bin/python" \
		.venv/bin/pytest -n 2 --dist loadfile $(E2E_BUILT)

## make test-deploy      sam build and sam deploy of the real template to an AWS on this machine (minutes)
.PHONY: test-deploy
test-deploy: .venv/ready .venv-sam/ready .venv-deploy/ready
	PATH="$(CURDIR)/.venv-sam/bin:$$PATH" .venv/bin/pytest -n 2 tests/deploy

## make security         checkov, licences, and known vulnerabilities of what ships (the last with network, or AUDIT=if-reachable)
.PHONY: security
security: .venv/ready .venv-security/ready
	.venv/bin/python -m tests.security template
	.venv/bin/pytest -q tests/template/test_licences.py
	.venv/bin/python -m tests.security audit $(AUDIT)

## make licences         writes into the README under which licences what ships is
.PHONY: licences
licences: .venv/ready
	.venv/bin/python -m tests.licences

## make diagram          draws the state machines into the README
.PHONY: diagram
diagram: .venv/ready
	.venv/bin/python -m tests.diagram

## make lock             compile requirements/*.in again, with hashes (needs uv)
.PHONY: lock
lock:
	uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' requirements/dev.in -o requirements/dev.txt
	for name in local runtime; do uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' -c requirements/dev.txt requirements/$$name.in -o requirements/$$name.txt; done
	uv pip compile -q --universal --python-version 3.13 --generate-hashes --custom-compile-command 'make lock' \
		-c requirements/dev.txt requirements/layer.in -o requirements/layer/requirements.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
		-c requirements/dev.txt requirements/bench.in -o requirements/bench.txt
	uv pip compile -q --universal --python-version 3.13 --generate-hashes --custom-compile-command 'make lock' \
		--no-emit-package botocore --no-emit-package python-dateutil --no-emit-package six \
		-c requirements/dev.txt requirements/bench-usual.in -o requirements/bench-usual.txt
	uv pip compile -q --upgrade --universal --python-version 3.13 --generate-hashes \
		--custom-compile-command 'make lock' requirements/sam.in -o requirements/sam.txt
	uv pip compile -q --upgrade --universal --python-version 3.13 --generate-hashes \
		--custom-compile-command 'make lock' requirements/security.in -o requirements/security.txt
	uv pip compile -q --upgrade --universal --python-version 3.13 --generate-hashes \
		--custom-compile-command 'make lock' requirements/deploy.in -o requirements/deploy.txt

## make clean            environments and build output
.PHONY: clean
clean:
	rm -rf .venv .venv-* .aws-sam build .coverage .*_cache .hypothesis

# ---------------------------------------------------------------- environments, one per lock file

.venv-local/ready: requirements/local.txt
	@echo "Setting up the local stack in .venv-local (once, about a minute)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the local stack needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make demo PYTHON=python3.13")'
	@$(PYTHON) -m venv --clear .venv-local
	@.venv-local/bin/python $(PIP_INSTALL) --progress-bar on -r requirements/local.txt
	@touch $@

.venv/ready: requirements/dev.txt
	@test -n "$(PYTHON313)" || { echo "make test needs python3.13: on PATH, or in pyenv (pyenv install 3.13)" >&2; exit 1; }
	"$(PYTHON313)" -m venv --clear .venv
	.venv/bin/python $(PIP_INSTALL) -r requirements/dev.txt
	touch $@

.venv-bench/ready: requirements/bench.txt
	@test -n "$(PYTHON313)" || { echo "make bench needs python3.13: on PATH, or in pyenv (pyenv install 3.13)" >&2; exit 1; }
	"$(PYTHON313)" -m venv --clear .venv-bench
	.venv-bench/bin/python $(PIP_INSTALL) -r requirements/bench.txt
	touch $@

# What a usual webhook brings (tests/bench/handlers/usual.py), as `sam build` would leave it: without bytecode.
build/usual/ready: requirements/bench-usual.txt .venv-bench/ready
	rm -rf build/usual
	.venv-bench/bin/python $(PIP_INSTALL) --no-compile --target build/usual/python -r requirements/bench-usual.txt
	touch $@

.venv-sam/ready: requirements/sam.txt
	@test -n "$(PYTHON313)" || { echo "sam build needs python3.13: on PATH, or in pyenv (pyenv install 3.13)" >&2; exit 1; }
	"$(PYTHON313)" -m venv --clear .venv-sam
	.venv-sam/bin/python $(PIP_INSTALL) -r requirements/sam.txt
	touch $@

.venv-security/ready: requirements/security.txt
	@test -n "$(PYTHON313)" || { echo "make security needs python3.13: on PATH, or in pyenv (pyenv install 3.13)" >&2; exit 1; }
	"$(PYTHON313)" -m venv --clear .venv-security
	.venv-security/bin/python $(PIP_INSTALL) -r requirements/security.txt
	touch $@

.venv-runtime/ready: requirements/runtime.txt
	@test -n "$(PYTHON313)" || { echo "the built artefacts run on python3.13: on PATH, or in pyenv (pyenv install 3.13)" >&2; exit 1; }
	"$(PYTHON313)" -m venv --clear .venv-runtime
	.venv-runtime/bin/python $(PIP_INSTALL) -r requirements/runtime.txt
	touch $@

.venv-deploy/ready: requirements/deploy.txt
	@test -n "$(PYTHON313)" || { echo "make test-deploy needs python3.13: on PATH, or in pyenv (pyenv install 3.13)" >&2; exit 1; }
	"$(PYTHON313)" -m venv --clear .venv-deploy
	.venv-deploy/bin/python $(PIP_INSTALL) -r requirements/deploy.txt
	touch $@
