# Development commands. Each target first sets up what it needs in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Parallel test workers; many tests start several processes of their own.
WORKERS ?= 2
STAMP  := $(VENV)/.installed
CHECKED := src tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-all check bench clean

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## install lmrecipes and its development tools into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or newer is needed, and {sys.executable} is {sys.version.split()[0]}; use make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps sweeps  # for its schema only: it wants an older NumPy
	@touch $(STAMP)

demo: setup  ## train and test the tiny Transformer-XL on embedded text, about three minutes after set-up
	$(BIN)/lmrecipes fit --config transformer_xl/tiny
	$(BIN)/lmrecipes test --run transformer_xl/tiny

PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test: setup  ## run a representative subset of the tests; about a quarter of an hour on two cores
	$(PYTEST) -p no:randomly -m "not exhaustive" --durations 20

test-fast: setup  ## run the tests that start no process, in two minutes: during development
	$(PYTEST) -p no:randomly -m "not exhaustive and not slow"

test-all: setup  ## run every test, in random order (pytest prints the seed; SEED=1 sets it): before a release
	$(PYTEST) $(if $(SEED),--randomly-seed $(SEED)) --durations 20

check: setup  ## check formatting, lint, types, direction of imports
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup  ## measure speed next to reference implementations in the same run
	$(BIN)/python benchmarks/transformer_xl_speed.py
	$(BIN)/python benchmarks/transformer_xl_inference.py
	$(BIN)/python benchmarks/electra_speed.py
	$(BIN)/python benchmarks/squad_speed.py
	$(BIN)/python benchmarks/mt5_speed.py
	$(BIN)/python benchmarks/data_speed.py
	$(BIN)/python benchmarks/corpus_speed.py
	$(BIN)/python benchmarks/text_pairs_speed.py
	$(BIN)/python benchmarks/training_overhead.py
	$(BIN)/python benchmarks/flood_overhead.py
	$(BIN)/python benchmarks/memory_growth.py --steps 2000
	$(BIN)/python benchmarks/loops.py
	$(BIN)/python benchmarks/startup.py

clean:  ## remove .venv and caches (runs/ stays)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
