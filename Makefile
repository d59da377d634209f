# localllm: `make serve` starts the server, `make test` checks everything. Both install what they need into .venv/.
#
#   make serve ARGS="--port 9000"                     arguments for `localllm serve`
#   make serve PYTHON=python3.12                      another interpreter (3.11 or newer)
#   make serve CMAKE_ARGS="-DGGML_CUDA=on"            a GPU build of llama.cpp; after a CPU build: make rebuild-llama

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Two at a time; the tests of one file stay together and share their servers.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
# pip's cache knows a wheel by its version, not by the flags that built it: a CPU build would pass for a GPU build.
PIP_FLAGS ?= --no-cache-dir

# GCC 12 drops the stores that fill AMX's tile configuration unless told not to (docs/architecture.md, "The build").
override CXXFLAGS := $(strip $(filter-out -fno-dse,$(CXXFLAGS)) -fno-dse)
export CXXFLAGS
export CMAKE_ARGS
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help serve install install-dev lint format test test-full fuzz docs bench rebuild-llama clean

help:
	@echo "make serve          install if need be, and start the server (ARGS=\"--port 9000\")"
	@echo "make test           lint, type check and test"
	@echo "make test-full      the same with many more random cases"
	@echo "make fuzz           ask a server whatever its description allows, for ten minutes (ARGS=\"--minutes 60\")"
	@echo "make lint | format  ruff and mypy | rewrite the files by ruff"
	@echo "make docs           bring docs/configuration.md and localllm.toml up to date with the code"
	@echo "make bench          measure (benchmarks/)"
	@echo "make rebuild-llama  build llama.cpp again, with the right flags and CMAKE_ARGS"

serve: $(VENV)/.installed
	@exec $(BIN)/localllm serve $(ARGS)

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev $(VENV)/node/.installed

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint $(VENV)/node/.installed
	$(PYTEST) $(ARGS)

test-full: lint $(VENV)/node/.installed
	LOCALLLM_TEST_FULL=1 $(PYTEST) --timeout 900 $(ARGS)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.real_models.fuzz_kit $(ARGS)

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate.py

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.embeddings
	$(BIN)/python -m benchmarks.structured
	$(BIN)/python -m benchmarks.cold_load
	$(BIN)/python -m benchmarks.sessions

rebuild-llama: $(VENV)/bin/python
	$(BIN)/python -m pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python \
	    "$$($(BIN)/python -c 'import tomllib; print(next(d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if d.startswith("llama-cpp-python")))')"

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "make: there is no '$(PYTHON)'; install Python 3.11 or newer, or name it: make serve PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: localllm needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name a newer one: make serve PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: this Python can't make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -c 'import importlib.metadata as m; m.version("llama-cpp-python")' 2>/dev/null || \
	    command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	    echo "make: llama.cpp is built here, and there is no C++ compiler; on Debian and Ubuntu: apt install g++, on Fedora: dnf install gcc-c++, on macOS: xcode-select --install" >&2; exit 1; }
	@$(BIN)/python -c 'import importlib.metadata as m; m.version("llama-cpp-python")' 2>/dev/null || \
	    echo "Building llama.cpp; this takes some minutes, once. CXXFLAGS=$(CXXFLAGS) CMAKE_ARGS=$(CMAKE_ARGS)"
	$(BIN)/python -m pip install $(PIP_FLAGS) --quiet --editable .
	@touch $@

# Dependency groups need a newer pip than some Pythons bring along.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

# The Node clients whose examples the tests run. npm finds node by PATH.
$(VENV)/node/.installed: tests/seeds/node/package-lock.json | $(VENV)/.installed-dev
	@mkdir -p $(VENV)/node
	cp tests/seeds/node/package.json tests/seeds/node/package-lock.json $(VENV)/node/
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix $(VENV)/node --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
