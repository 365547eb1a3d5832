# Everything a contributor runs. Each target sets up what it needs; only Python 3.11 or newer must be there.
#
#   make test          lint, import contract, types, tests (what CI runs)
#   make demo          the whole path on the bundled small teacher: demo-out/report.html
#   make fix           format and mend what the linter can mend
#   make test-matrix   the tests marked `matrix` on every supported transformers version
#   make test-gpu      the tests marked `gpu`; needs an accelerator and `pip install -e .[gpu]`

SHELL := /bin/bash
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := help
.PHONY: help install test lint types unit demo fix test-gpu test-matrix FORCE

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; \
	done)
BIN := .venv/bin
WORKERS ?= 2
TRANSFORMERS_VERSIONS := 5.16.1 5.17.0 newest
# One thread per test process; the demo uses every core.
unit test-gpu: export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# $(call make_venv,DIRECTORY): create a virtual environment unless a working one is there.
define make_venv
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || { \
		if [ -z "$(PYTHON)" ]; then \
			echo "hydrahead needs Python 3.11 or newer and found none: install one, or make PYTHON=/path/to/python" >&2; exit 1; fi; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "hydrahead needs Python 3.11 or newer, $(PYTHON) is not: try make PYTHON=/path/to/python" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(1) || { \
			echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: python3-venv)" >&2; exit 1; }; \
	}
endef

help:
	@sed -n 's/^#   //p' Makefile

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(call make_venv,.venv)
	@echo "installing into .venv (minutes the first time)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

test: lint types unit

lint: install
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

types: install
	$(BIN)/pyright --level error

unit: install
	$(BIN)/python -m pytest -q -n $(WORKERS)

demo: install
	$(BIN)/hydrahead demo --out demo-out

fix: install
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix .

test-gpu: install
	$(BIN)/python -m pytest -q -m gpu

test-matrix: $(TRANSFORMERS_VERSIONS:%=test-transformers-%)

test-transformers-%: .venv-tf-%/.installed
	.venv-tf-$*/bin/python -m pytest -q -m matrix -n $(WORKERS)

# The constraints without transformers and the libraries it pins itself.
.venv-tf-%/.installed: pyproject.toml constraints.txt
	$(call make_venv,.venv-tf-$*)
	@echo "installing into .venv-tf-$*"
	@grep -viE '^(transformers|huggingface_hub|tokenizers|safetensors)==' constraints.txt > .venv-tf-$*/constraints.txt
	@.venv-tf-$*/bin/python -m pip install --quiet --upgrade -c .venv-tf-$*/constraints.txt \
		-e '.[dev]' $(if $(filter newest,$*),'transformers<6',transformers==$*)
	@touch $@

.venv-tf-newest/.installed: FORCE
FORCE:
