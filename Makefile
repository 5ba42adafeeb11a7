# Everything happens in .venv, with the versions of constraints.txt. `make help` lists the targets.
#
# PIP_FLAGS is handed to pip. On Linux the default torch brings about 5 GB of CUDA libraries; a machine without NVIDIA
# hardware can take the CPU-only wheel instead, by naming PyTorch's own CPU index:
#     make demo PIP_FLAGS="--extra-index-url <PyTorch's own CPU index>"
# The pin torch==2.13.0 admits the wheel 2.13.0+cpu, which pip prefers, and then none of the nvidia packages is installed.
#
# CONSTRAINTS= (empty) installs the newest versions instead of the tested ones; `make constraints` then writes them down.

VENV        ?= .venv
PIP_FLAGS   ?=
CONSTRAINTS ?= constraints.txt
EXTRAS      ?= dev
OUTPUT      ?= runs/demo
PYTEST_ARGS ?=
SOAK        ?= 2000

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
STAMP  := $(VENV)/.installed
DOCS   := $(VENV)/.installed-docs
TRACED := pyproject.toml ppl_vae/__init__.py $(wildcard $(CONSTRAINTS))  # __init__.py holds the version
COMMA  := ,

# Each candidate is run, not only looked up: a version manager's shim can be on the path and fail when called.
define FIND_PYTHON
for candidate in $(PYTHON) python3 python3.12 python3.13 python3.14; do \
    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
        found=$$candidate; break; \
    fi; \
done; \
if [ -z "$$found" ]; then \
    echo "ppl_vae needs Python 3.12 or newer; none of $(if $(PYTHON),$(PYTHON)$(COMMA) )python3, python3.12, python3.13, python3.14 is one." >&2; \
    echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
    exit 1; \
fi
endef

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs dist bench soak constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## make .venv and install the package in it, once
	@echo "== $(VENV) is ready"

$(BIN)/python:
	@$(FIND_PYTHON); \
	echo "== making $(VENV) with $$found ($$($$found --version 2>&1))"; \
	$$found -m venv $(VENV) || { \
	    rm -rf $(VENV); \
	    echo "$$found could not make $(VENV): on Debian and Ubuntu install its venv package (python3-venv)." >&2; exit 1; }

$(STAMP): $(TRACED) | $(BIN)/python
	@echo "== installing ppl_vae[$(EXTRAS)] into $(VENV): once, a few minutes, torch is large"
	@$(PIP) -e '.[$(EXTRAS)]'
	@touch $@
	@echo "== installed"

$(DOCS): $(STAMP)
	@echo "== installing the documentation tools into $(VENV): once"
	@$(PIP) -e '.[docs]'
	@touch $@

demo: $(STAMP) ## train on the embedded digits and report a believable log p(x): OUTPUT=runs/demo
	$(BIN)/ppl-vae demo --output $(OUTPUT)

test: $(STAMP) ## run the tests and the docstrings' examples: PYTEST_ARGS="-k vamp"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

lint: $(STAMP) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS) ## build the documentation into docs/_build/html, warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

dist: $(STAMP) ## build the source archive and the wheel, install the wheel in an environment of its own, and use it there
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m venv --clear dist/.venv
	dist/.venv/bin/python -m pip install --disable-pip-version-check $(PIP_FLAGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) dist/*.whl
	cd dist && .venv/bin/ppl-vae --version && .venv/bin/ppl-vae demo --output demo
	rm -rf dist/.venv dist/demo

bench: $(STAMP) ## measure: every figure a ratio within one run
	$(BIN)/python tests/benchmarks/bench.py

soak: $(STAMP) ## kills, damaged files, wrong calls, full disks, in large numbers: SOAK=2000, about an hour
	cd tests && OMP_NUM_THREADS=1 PYTHONPATH=. timeout 7200 ../$(BIN)/python -m soak --count $(SOAK)
	PPL_VAE_SOAK=$(SOAK) timeout 3600 $(BIN)/python -m pytest --hypothesis-show-statistics tests/test_properties.py

constraints: $(DOCS) ## write down the installed versions as the tested ones
	$(BIN)/python -m pip freeze --disable-pip-version-check --exclude-editable \
	    | (grep '^#' constraints.txt; LC_ALL=C grep -E '^[A-Za-z0-9._-]+==' | sed 's/+[a-z0-9.]*$$//') > $(VENV)/constraints.new
	mv $(VENV)/constraints.new constraints.txt
	@touch $(STAMP) $(DOCS)

clean: ## remove .venv, caches, builds and runs
	rm -rf $(VENV) runs build dist docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
