# Every routine action. Bare `make` lists them.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Optional folder of test vectors, vocabulary and a CPU wheel of torch.
SHARED ?= ../shared
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fmt golden lock cluster-binaries test-gpu clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed $(VENV)/.data ## make .venv with everything in it, fetch the vocabulary and the corpora

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --python $(BIN)/python $(if $(wildcard $(SHARED)/wheels),--find-links $(SHARED)/wheels) --editable '.[core,serve,dev]'
	@touch $@

$(VENV)/.data: $(VENV)/.installed tools/fetch_data.py
	$(BIN)/python tools/fetch_data.py $(if $(wildcard $(SHARED)/data/pcl_bpe_4w),--vocabulary-from $(SHARED)/data/pcl_bpe_4w)
	@touch $@

demo: setup ## train a small PanGu-alpha on real text, lose a process, recover, write Chinese (6 minutes)
	$(BIN)/python tools/demo.py

test: setup lint cluster-binaries ## run every check and test that this machine can run
	PANGU_SHARED=$(abspath $(SHARED)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup ## ruff, mypy, import layers, size budgets, spelling, YAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py
	$(BIN)/codespell
	$(BIN)/yamllint --strict examples .pre-commit-config.yaml

fmt: setup ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: setup ## rewrite the golden manifests, the CRDs, docs/configuration.md and what follows in the chart; read the diff
	$(BIN)/python tools/write_golden.py
	$(BIN)/python tools/write_crds.py
	$(BIN)/python tools/write_docs.py
	$(BIN)/python tools/write_chart.py

lock: setup ## rewrite the images' locked requirements: the newest that pyproject.toml takes
	$(BIN)/python tools/write_locks.py

cluster-binaries: setup ## build the control plane for tests where Go is (10 minutes the first time)
	$(BIN)/python -m tests.cluster.binaries

test-gpu: ## the numerics suite on a CUDA device, with the python3 of that machine
	python3 -m pytest tests/gpu -p no:cacheprovider $(PYTEST_ARGS)

clean: ## remove what make made, the environment included
	rm -rf $(VENV) demo-run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
