# `make demo` and `make test` set up everything they need in ./.venv; nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv/bin
.DEFAULT_GOAL := help

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: .venv/.installed  ## tune a model on 2,000 real images (about two minutes) and print its test accuracy
	$(VENV)/python tutorials/01_quickstart.py

test: .venv/.installed  ## lint, types and the tests that run in minutes
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-all: .venv/.installed  ## every test, the slow ones too
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/python -m pytest -n 2 --dist worksteal

test-lowest:  ## the tests that run in minutes, with the oldest versions that pyproject.toml allows, in ./.venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[test]'
	.venv-lowest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow' -W default

bench: .venv/.installed  ## measure speed on this processor (about 5 minutes): one table
	cd benchmarks && ../$(VENV)/python bench.py

bench-gpu: .venv/.installed  ## the same on an NVIDIA GPU
	cd benchmarks && ../$(VENV)/python bench.py --gpu

notebooks: .venv/.installed  ## write the tutorials' notebooks from their scripts, with outputs
	for script in tutorials/*.py; do \
		$(VENV)/jupytext --quiet --to ipynb $$script && \
		(cd tutorials && PATH="$(CURDIR)/$(VENV):$$PATH" jupyter execute --inplace $$(basename $$script .py).ipynb) || exit 1; \
	done

clean:  ## remove the environment and everything made
	rm -rf .venv build runs automm_hpo_models mlflow.db *.egg-info

.PHONY: help demo test test-all test-lowest bench bench-gpu notebooks clean
