# Every target can be the first command in a fresh clone: it makes .venv first.
#
#   make test PYTHON=python3.12      with another Python
#   make conform BACKEND=jax         on one backend
#   make check BACKEND=tensorflow
#   make test FULL=1                 every test and every check on every backend

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
# One backend for the quick gates, all of them for the full runs, unless BACKEND says which.
ONE = $(or $(BACKEND),torch)
ALL = $(or $(BACKEND),all)

# What writes no file is the same with exporters installed: of the sample it is left to `make test`.
EXPORTS = tests/export $(if $(FULL)$(CELLS),,--ignore=tests/export/test_compile.py)

BIN = $(VENV)/bin
READY = $(VENV)/.ready

# TensorFlow logs its build options at every start; errors still show.
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Most of the time on JAX goes into compiling the same small functions, run after run.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.05
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1
# Material for MkDocs announces its successor in every build.
export NO_MKDOCS_2_WARNING ?= 1

.DEFAULT_GOAL := help
.PHONY: help conform test test-export test-keras compat fuzz mutate nightly check bench gpu lint format docs clean

help: ## show this list
	@echo "make TARGET    (each makes $(VENV) first if it isn't there)"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

$(READY): pyproject.toml constraints.txt tools/install.py
	@$(PYTHON) tools/install.py $(VENV)
	@touch $@

conform: $(READY) ## prove every registered cell correct on every backend; a matrix and reports/ (FULL=1)
	@mkdir -p reports
	@$(BIN)/cellkit conform --backend $(ALL) $(if $(FULL),,--spread) -n $(WORKERS) --json reports/conformance.json --junit reports/conformance.xml --html reports/conformance.html

test: $(READY) ## test the framework on every backend, and run Keras' own RNN tests against it (FULL=1)
	@$(BIN)/python tools/run_tests.py --backend $(ALL) --workers $(WORKERS) $(if $(FULL),-- --everywhere)

test-export: $(READY) ## export cells, load the files elsewhere and compare (FULL=1: every cell; CELLS=gru,lru: those; RECORD=1: for the docs)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[export]"
	@failed=0; for backend in $(or $(BACKEND),tensorflow torch jax); do \
	  echo "==> exports on $$backend"; \
	  KERAS_BACKEND=$$backend EXPORT_CELLS=$(if $(FULL),all,$(or $(CELLS),sample)) EXPORT_RECORD=$(RECORD) \
	    $(BIN)/python -m pytest $(EXPORTS) --everywhere -q $(if $(RECORD),,-n $(WORKERS)) || failed=1; \
	done; exit $$failed

test-keras: $(READY) ## test the layers with another Keras (KERAS=oldest, newest, main or a version; BACKEND=torch)
	@$(BIN)/python tools/other_keras.py $(or $(KERAS),newest) --backend $(ONE)

compat: $(READY) ## run only Keras' own RNN tests against cellkit's layers
	@$(BIN)/python tools/run_tests.py --backend $(ALL) --workers $(WORKERS) --only compat

fuzz: $(READY) ## compare the engines on random cells (SEED=7, MINUTES=60 or SECONDS=90 on each backend)
	@$(BIN)/python tools/fuzz.py --backend $(ALL) $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS),--minutes $(or $(MINUTES),5))

mutate: $(READY) ## change the steps of all cells, and see that the suite notices; hours (CELLS="lstm gru")
	@mkdir -p reports
	@$(BIN)/cellkit selftest --cells $(CELLS) --backend $(ALL) --json > reports/mutation.json; code=$$?; $(BIN)/python tools/kill_scores.py --show reports/mutation.json; exit $$code

nightly: mutate ## what is too long for every day: mutate, and checks on a Dask cluster
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[distributed]"
	@KERAS_BACKEND=$(ONE) $(BIN)/python -m pytest tests/conformance/test_executor.py -q

check: lint ## what to run before a commit: lint, and a part of the tests on one backend (BACKEND=torch)
	@$(BIN)/python tools/run_tests.py --backend $(ONE) --workers $(WORKERS) --only tests -- -m "not slow" --one-in 5

bench: $(READY) ## measure how fast cells run beside their rivals; benchmarks/results/
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	@$(BIN)/cellkit bench --backend $(ALL)
	@$(BIN)/python tools/bench_tables.py

gpu: $(READY) ## prove and measure cells on the GPU at hand; benchmarks/results/gpu-*.json (MINUTES=8, DEVICE=cpu)
	@$(BIN)/python benchmarks/gpu.py --minutes $(or $(MINUTES),8) --device $(or $(DEVICE),gpu) $(if $(BACKEND),--backend $(BACKEND))

lint: $(READY) ## check formatting, style and types
	@echo "ruff format"; $(BIN)/ruff format --check --quiet --diff
	@echo "ruff check"; $(BIN)/ruff check --quiet
	@echo "mypy"; $(BIN)/mypy

format: $(READY) ## format the code, and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

docs: $(READY) ## build the site into site/, strictly, and look at its links, pages and tables
	@$(BIN)/mkdocs build --strict
	@SITE=site $(BIN)/python -m pytest tests/project/test_site.py tests/project/test_docs_tables.py -q && echo "docs: see site/index.html"

clean: ## remove everything that was built, the environment included
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist reports site
