# Every target sets up .venv first, when it is missing or older than the pins.

PY := .venv/bin/python
READY := .venv/.ready
PIP := $(PY) -m pip --disable-pip-version-check --quiet --quiet --no-input
TORCH := $(shell grep '^torch==' constraints.txt)
# The first interpreter that really is 3.11 (a version manager's shim may not be one).
FIND_PYTHON = for p in $(PYTHON) python3.11 python3 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; done
WORKERS ?= 2

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check setup format benchmark

help:
	@echo "make demo       make a dataset, train OM2P on it, evaluate, write demo/report.md"
	@echo "make test       lint, types, import layers and tests"
	@echo "make test-slow  the tests that take longer than about 10 seconds each (25 minutes)"
	@echo "make check      lint, types and import layers only"
	@echo "make format     let ruff format and fix what it can"
	@echo "make benchmark  speed and memory, on an otherwise idle machine"
	@echo "make setup      install into .venv and nothing else"

demo: $(READY)
	@$(PY) examples/demo.py $(ARGS)

test: check
	@echo "== tests"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: $(READY)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m slow $(ARGS)

check: $(READY)
	@echo "== ruff"
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check . || { echo "Run make format."; exit 1; }
	@echo "== mypy"
	@$(PY) -m mypy
	@echo "== import layers"
	@$(PY) -c 'from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_logo=True))'

format: $(READY)
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .

benchmark: $(READY)
	@$(PY) -m pytest -q -m benchmark $(ARGS)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@if ! $(PY) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  python=$$($(FIND_PYTHON)); \
	  if [ -z "$$python" ]; then \
	    echo "Python 3.11 is needed and was not found as python3.11, python3 or python." >&2; \
	    echo "Install it, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  echo "[1/3] making .venv with $$python"; \
	  $$python -m venv --clear .venv || { \
	    echo "$$python cannot make a virtual environment; on Debian and Ubuntu install python3.11-venv." >&2; \
	    exit 1; }; \
	fi
	@echo "[2/3] installing $(TORCH) (the largest download, some minutes on a slow line)"
	@$(PIP) install -c constraints.txt '$(TORCH)'
	@echo "[3/3] installing Ray, MuJoCo, the other libraries and the tools"
	@$(PIP) install -c constraints.txt hatchling
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev,mamujoco,lbf,import,cluster]'
	@touch $@
	@echo "ready: $(PY)"
