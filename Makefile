# Everything that is done to this project, by name. `make` alone lists it.

PYTHON ?= python3
# torch stands on the same pip line as the project, or pip may take another release and another build of it. Which build of
# this release comes is the index's choice: the CPU build where pip knows an index that has it, else on Linux the one with
# CUDA. Another release, or a wheel: make demo TORCH=torch==2.12.0
TORCH ?= torch==2.13.0
# Options for pytest, for example: make test ARGS="tests/data -k csv"
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: help demo samples test nightly figures lint format clean

help:
	@echo "make demo      train a small language model on Chinese and English verse, and let it write (5 minutes on 2 cores)"
	@echo "make samples   let the finished demo write again"
	@echo "make test      all tests but the nightly ones; one part: make test ARGS='tests/data -k csv'"
	@echo "make nightly   the deep share too: five times the kills, cuts and flips (needs strace)"
	@echo "make figures   run each recipe of which anything has changed, and print its figure (fetches the data)"
	@echo "make lint      ruff, its formatter, and mypy"
	@echo "make format    let ruff put the files in order"
	@echo "make clean     remove .venv, caches and prepared data; runs/ stays"

# ------------------------------------------------------------------------------------------------------------- using it

demo: .venv/.installed
	$(BIN)/dougong train recipes/demo.yaml --fresh
	@$(MAKE) --no-print-directory samples
	@echo
	@echo "The report: runs/demo/report.html (open it in a browser)."
	@echo "Your own data: $(BIN)/dougong new DATA.csv --predict COLUMN"

samples: .venv/.installed
	$(BIN)/dougong generate runs/demo "《春" "明月" "SONNET" "O, " --max-tokens 100

figures: .venv/.installed-dev
	$(BIN)/python recipes/figures.py

# ---------------------------------------------------------------------------------------------------------- working on it

test: .venv/.installed-dev
	$(PYTEST) -m "not nightly" $(ARGS)

# MALLOC_PERTURB_: what malloc gives is filled with what is noticed where a kernel reads what was never written.
nightly: .venv/.installed-dev
	@command -v strace >/dev/null || { echo "make nightly needs strace (Linux: apt-get install strace)"; exit 2; }
	MALLOC_PERTURB_=1 DOUGONG_NIGHTLY=5 $(PYTEST) $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .dougong build dist dougong.egg-info benchmarks/.work benchmarks/.venv benchmarks/.venv-litgpt .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find dougong tests recipes benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------------------- setting it up

# The stamps are written last, so that an interrupted installation is done again; and after a change of pyproject.toml.

.venv/.installed: pyproject.toml | .venv/bin/pip
	$(PIP) "$(TORCH)" -e .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/pip
	$(PIP) "$(TORCH)" -e ".[dev]"
	@touch .venv/.installed $@

.venv/bin/pip:
	@command -v $(PYTHON) >/dev/null || { \
		echo "dougong needs Python 3.11 or newer; there is no $(PYTHON). Fix: install one, or name it: make PYTHON=python3.12"; \
		exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "dougong needs Python 3.11 or newer; $$($(PYTHON) --version) is $(PYTHON). Fix: name another: make PYTHON=python3.12"; \
		exit 2; }
	$(PYTHON) -m venv .venv
