# Everything that is done with the project by name. Each target sets up what it needs.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup test lint format demo bench faults tables docs dist pictures clean

help: ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(VENV)/ready ## make a virtual environment with everything the project needs

$(VENV)/ready: pyproject.toml
	@echo "setting up $(VENV): this package, torch and transformers, and what tests need; minutes"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

test: setup ## run the tests in JOBS processes, 2 by default
	$(RUN) -m pytest -n $(JOBS) --dist worksteal

lint: setup ## check types and style
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: setup ## format the code and fix what ruff can fix
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

demo: setup ## show the main job on a small checkpoint that transformers writes
	$(RUN) scripts/demo.py

bench: setup ## measure speed and memory next to cp and the whole-model way
	$(RUN) benchmarks/bench.py
	$(RUN) benchmarks/bench_layouts.py
	$(RUN) benchmarks/bench_formats.py
	$(RUN) benchmarks/bench_peaks.py
	$(RUN) benchmarks/bench_verify.py
	$(RUN) benchmarks/bench_dcp.py
	$(RUN) benchmarks/bench_lazy.py
	$(RUN) benchmarks/bench_relay.py
	$(RUN) benchmarks/bench_distributed.py
	$(RUN) benchmarks/bench_hub.py
	$(RUN) benchmarks/bench_growth.py --plot build/growth.svg
	$(RUN) benchmarks/stages.py
	$(RUN) benchmarks/bench_kernels.py
	$(RUN) benchmarks/held_lock.py

faults: setup ## let each system call of a conversion fail in turn (strace, Linux)
	$(RUN) scripts/inject_faults.py

tables: setup ## generate the references in docs/reference/ from the code
	$(RUN) scripts/generate_docs.py

docs: tables ## build the documents as a site in build/site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

dist: setup ## build a wheel and an sdist in dist/
	rm -rf dist
	$(RUN) -m build --no-isolation

pictures: setup ## draw the pictures in the README
	$(RUN) scripts/pictures.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
