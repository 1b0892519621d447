# The same commands on a laptop and in CI. Each one sets up .venv by itself, with the versions of constraints.txt.
#
#   make run     `nvae-bio run` on config/config.yaml (or CONFIG=FILE): the workflow without conda, and report.html
#   make test    all tests, the slow ones too       make lint    style, types, lock and generated files
#   make faults  trials of what goes wrong on real machines, the table docs/faults.csv (or TRIALS=n kills, TABLE=FILE)
#   make fuzz    changed files for every reader, CASES (2000) of each; writes docs/fuzz.csv
#   make docs    the documentation as a site in docs/_build/html; its code cells run
#   make dist    wheel and sdist in dist/
#   make lock    constraints.txt and environment.yml from what .venv has now       make clean    undo the set-up

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.PHONY: run test lint docs faults fuzz dist lock clean

CORES ?= all
CONFIG ?= config/config.yaml
WORKERS ?= 3
TRIALS ?= 240
TABLE ?= docs/faults.csv
CASES ?= 2000
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
    "$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)

# jobs of the workflow call `python`; a relative path would be lost where a tool changes the folder
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONNOUSERSITE := 1
unexport PYTHONDONTWRITEBYTECODE # pip leaves modules to be compiled; hundreds of processes would each do it anew
PY := .venv/bin/python

run: .venv/.workflow
	$(PY) -m nvae_bio run "$(CONFIG)" --cores $(CORES)

# one thread a worker: otherwise each would start as many as there are cores; for two cores three, for tests also wait
test: export OMP_NUM_THREADS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: export NUMBA_NUM_THREADS := 1
test: .venv/.test
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: .venv/.test
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/snakefmt --check Snakefile workflow
	$(PY) -m snakemake --lint
	$(PY) tools/lock.py --check
	$(PY) tools/config_reference.py --check
	$(PY) tools/comparison_tables.py --check
	$(PY) tools/output_reference.py --check

docs: export OMP_NUM_THREADS := 1
docs: .venv/.test
	$(PY) -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html

# disks are mounted, which needs root; without it those faults are left out
faults: .venv/.test
	$(PY) -m tests.faults --trials "$(TRIALS)" --table "$(TABLE)"

fuzz: export OMP_NUM_THREADS := 1
fuzz: export OPENBLAS_NUM_THREADS := 1
fuzz: .venv/.test
	$(PY) -m tests.fuzz --cases $(CASES)

lock: .venv/.test
	$(PY) tools/lock.py

dist: .venv/.test
	rm -rf dist
	$(PY) -m build --no-isolation

# results, resources and Snakemake's records of them stay
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis nvae_bio.egg-info
	find nvae_bio tests tools -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	@if [[ -z "$(PYTHON)" ]]; then
	    echo "No Python from 3.11 on with venv was found; name one: make PYTHON=/path/to/python3.11" >&2
	    exit 1
	fi
	"$(PYTHON)" -m venv --clear .venv
	$(PY) -m pip install --quiet --upgrade "pip>=25" # the one that comes with Python 3.11 takes half as long again

# --no-compile: a module is compiled when it is first imported, and most never are
.venv/.workflow: .venv/bin/python constraints.txt pyproject.toml
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/.test: .venv/bin/python constraints.txt pyproject.toml
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[docs,slurm,test]'
	touch $@ .venv/.workflow
