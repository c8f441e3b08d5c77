# make demo      the whole service on this machine: one search, its results in runs/demo/
# make test      lint, import contracts and tests: the same checks as CI
# make parity    the dense network beside transformers', at every size and batch (about 20 minutes)
# make bench     every benchmark (ARGS="--quick --check" is passed on)
# make supernet  train and adapt the shipped supernet anew (about 15 minutes on 2 cores)
# make soak     ten minutes of random faults on the whole service (ARGS="--minutes 2 --seed 7")
# make lint      lint alone
# make install   only install, into .venv
#
# Each target installs first where that is needed. PYTHON=... picks another interpreter, JOBS=... how
# many processes share the tests (2). Where no CUDA build of torch is wanted, set
# PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
JOBS := 2
BENCHES = $(notdir $(basename $(shell grep -l '__main__' bench/*.py)))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

MAKEFLAGS += --no-print-directory

.PHONY: help demo test parity bench supernet soak lint install

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(STAMP)
	@$(BIN)/sparsevit demo

# What measures real time has the machine to itself, afterwards.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not alone"
	@$(BIN)/python -m pytest -q -m alone

parity: $(STAMP)
	@$(BIN)/python -m pytest -q tests/sparsevit/test_dense_parity.py --whole-grid --timeout 3600

bench: $(STAMP)
	@set -e; for name in $(BENCHES); do echo "== bench.$$name"; \
		$(BIN)/python -m bench.$$name $(ARGS); done

supernet: $(STAMP)
	@$(BIN)/python -m bench.supernet $(ARGS)

soak: $(STAMP)
	@$(BIN)/python -m tests.soak $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run: $(BIN)/ruff format ."; exit 1; }

install: $(STAMP)

# torch comes first and alone: with everything else in one step pip may take another build of it.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { \
		for python in $(PYTHON) python3.12 python3.11 python3; do \
			if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
				>/dev/null 2>&1; then found=$$python; break; fi; \
		done; \
		test -n "$$found" || { \
			echo "No usable Python 3.11 or 3.12 was found: install one with its venv module" >&2; \
			echo "(Debian: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
			exit 1; }; \
		echo "Making $(VENV) with $$found"; $$found -m venv $(VENV); }
	@echo "Installing into $(VENV): 1 of 2, $(TORCH) (minutes, depending on the network)"
	@$(PIP) "$(TORCH)"
	@echo "Installing into $(VENV): 2 of 2, everything else (about 2 minutes)"
	@$(PIP) -e '.[service,dev]'
	@touch $@
