# The task runner. CI runs these targets and nothing else.
#
#   make demo    edit a picture with the embedded model and print its path
#   make web     a page that edits in the browser itself, on http://127.0.0.1:7870
#   make test    the tests            make long   the slow tests
#   make lint    ruff and pyright     make runtime  edits in an environment without torch
#   make gpu-dry what a GPU runs first, at small sizes and without one
#   make clean   forget .venv, out and caches
#
# Each makes .venv first, or reuses it. The torch build is chosen by two variables, used for torch alone:
#
#   TORCH     what to install. A plain, newer `torch` may bring gigabytes of CUDA, so the version is named.
#   PIP_ARGS  where from, if not from pip's own configuration:
#       CPU:  make demo PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu"
#       CUDA: make demo PIP_ARGS="--index-url https://download.pytorch.org/whl/cu130"
#
# Without PIP_ARGS pip takes what its configured index holds: on PyPI that is a CUDA build on Linux, a CPU build on
# macOS and Windows. Changing a variable later installs again. PYTHON picks the interpreter (3.11 or newer).

TORCH ?= torch==2.13.0
PIP_ARGS ?=
PYTEST_ARGS ?=
WEB_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
CHOICE := $(VENV)/torch-choice
CORE := $(VENV)/core-installed
DEV := $(VENV)/dev-installed
WANTED := $(CURDIR) $(TORCH) $(PIP_ARGS)

.PHONY: demo web test long runtime lint gpu-dry venv clean FORCE
.DELETE_ON_ERROR:

demo: $(CORE)
	@mkdir -p out
	@$(BIN)/icd edit --demo --out out/demo.png

# Exporting takes a minute or two and fetches onnxruntime-web once; remove out/site to do it again.
web: out/site/icd.json
	$(BIN)/icd web out/site $(WEB_ARGS)

out/site/icd.json: | $(CORE)
	$(PIP) install --editable '.[onnx]'
	$(BIN)/icd export tiny --layout web --out out/site

# Files of tests side by side, a process for each processor: each with one thread, which is faster than sharing.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile $(PYTEST_ARGS)

long: $(DEV)
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

runtime: $(DEV)
	$(BIN)/python -m pytest -m runtime tests/test_runtime.py $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

gpu-dry: $(DEV)
	for command in 1 2 3; do QUICK=1 PYTHON=$(BIN)/python benchmarks/gpu_run.sh $$command out/gpu-dry || exit 1; done

venv: $(DEV)

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# Written only when the answer changes: another torch, or a moved folder, makes what follows stale.
$(CHOICE): FORCE
	@mkdir -p $(VENV)
	@printf '%s\n' '$(WANTED)' | cmp -s - $@ || printf '%s\n' '$(WANTED)' > $@

$(CORE): $(CHOICE) pyproject.toml setup.py
	@set -e; \
	if $(BIN)/python -m pip --version > /dev/null 2>&1; then exit 0; fi; \
	for python in '$(PYTHON)' python3.11 python3.12 python3.13 python3.14 python3 python; do \
	    if [ -n "$$python" ] && "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	        echo "making $(VENV) with $$python"; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "No Python 3.11 or newer with venv and ensurepip was found: install one, or name it: make PYTHON=..." >&2; \
	exit 1
	$(PIP) install $(PIP_ARGS) '$(TORCH)'
	$(PIP) install --editable .
	@touch $@

$(DEV): $(CORE)
	$(PIP) install --editable '.[dev]'
	@touch $@
