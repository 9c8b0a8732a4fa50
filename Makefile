# Two commands from nothing: `make demo` and `make test`. Each sets up its own .venv first (scripts/bootstrap.sh).
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
# One thread per worker: two workers with a pool each would fight over the cores.
export OMP_NUM_THREADS ?= 1
export VENV PYTHON TORCH_ARGS
# mkdocs-material and a plugin announce the end of MkDocs on every build.
export NO_MKDOCS_2_WARNING := 1
export DISABLE_MKDOCS_2_WARNING := true
WORKERS ?= 2
NUMERIC := tests/golden tests/property tests/theory tests/unit/test_losses.py $(addprefix tests/unit/,functional gradients act observe analysis attaching)

.DEFAULT_GOAL := help
.PHONY: help demo test test-numeric lint types docs serve-docs ci clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo:  ## Train on handwritten digits, plain and with surge-collapse, and write the report
	@scripts/bootstrap.sh demo
	$(BIN)/surgecollapse demo $(ARGS)
	@printf '\nTo go on: $(BIN)/surgecollapse run digits --sparsity 0.9, or $(BIN)/surgecollapse --help.\n'
	@printf 'After `source $(BIN)/activate` the command is just surgecollapse.\n'

test:  ## The test suite
	@scripts/bootstrap.sh test
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)
	@printf '\nTo run some of them: $(BIN)/python -m pytest tests/unit/functional, or make test ARGS="-k masks".\n'
	@printf 'To train: $(BIN)/surgecollapse run digits --sparsity 0.9. After `source $(BIN)/activate` it is just surgecollapse.\n'

# Vector instructions, BLAS and oneDNN each in their plainest form: sums are taken in another order than by default.
test-numeric: export ATEN_CPU_CAPABILITY ?= default
test-numeric: export MKL_CBWR ?= COMPATIBLE
test-numeric: export ONEDNN_MAX_CPU_ISA ?= SSE41
test-numeric:  ## The numeric tests once more, with the rounding of another processor
	@scripts/bootstrap.sh test
	$(BIN)/python -m pytest -n $(WORKERS) $(NUMERIC) $(ARGS)

lint:  ## Style, format, the import contract and the form of the documentation; BASE=main: commit subjects, too
	@scripts/bootstrap.sh test lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_prose.py $(if $(BASE),--since $(BASE))

types:  ## Both type checkers
	@scripts/bootstrap.sh test lint
	$(BIN)/pyrefly check
	$(BIN)/mypy --strict src

docs:  ## Build the documentation in site/; a broken link fails
	@scripts/bootstrap.sh docs
	$(BIN)/mkdocs build --strict --quiet
	@printf '\nBuilt in site/. To read it in the browser: make serve-docs.\n'

serve-docs:  ## The documentation in the browser, rebuilt as it is edited
	@scripts/bootstrap.sh docs
	$(BIN)/mkdocs serve

ci:  ## All that CI checks
	.ci/run

clean:  ## Remove what the targets above made, .venv too; runs/ stays
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
