# Every target sets up what it needs: a fresh machine has Python 3.11, pip and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
INSTALL_SECONDS ?= 600
BIN := $(VENV)/bin

.PHONY: demo test test-servers coverage check format graphs bench notebook clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/base.stamp: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("lc-service needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/base.stamp  ## run the main job against the embedded simulator
	$(BIN)/lc-service demo $(ARGS)

test: $(VENV)/dev.stamp  ## run the tests
	$(BIN)/python tests/servers/install.py aimock
	$(BIN)/python -m pytest $(ARGS)

test-servers: $(VENV)/dev.stamp  ## run the package against servers that others wrote (the first time: six minutes)
	$(BIN)/python tests/servers/install.py --seconds $(INSTALL_SECONDS) aimock litellm llama
	$(BIN)/python -m pytest tests/servers -m '' -n 0 --timeout=180 $(ARGS)

coverage: $(VENV)/dev.stamp  ## run the tests and tell which branches they take (95 % at least)
	mkdir -p .coverage.d && chmod 777 .coverage.d  # some tests run as nobody
	$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

check: $(VENV)/dev.stamp  ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

graphs: $(VENV)/dev.stamp  ## draw the chains into docs/chain-graphs.md
	$(BIN)/python docs/draw_chains.py

bench: $(VENV)/dev.stamp  ## measure each part, and flow beside its peers (an hour; QUICK=1: some minutes)
	$(BIN)/python benchmarks/simulator_throughput.py
	$(BIN)/python benchmarks/tokenizer.py
	$(BIN)/python benchmarks/pricing.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/accounting.py
	$(BIN)/python benchmarks/scenarios.py $(if $(QUICK),--quick --results .bench,--results benchmarks/results) $(ARGS)
	$(BIN)/python benchmarks/redis_limits.py
	$(BIN)/python benchmarks/calls.py

notebook:  $(VENV)/dev.stamp  ## open the notebooks in JupyterLab
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebook]'
	$(BIN)/jupyter lab notebooks

clean:  ## remove everything that was made here
	rm -rf $(VENV) .bench .servers .coverage.d .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
