# Every command of the README and of .ci/run; each does its own set-up.
PYTHON ?= python3
# A GPU install: make setup TORCH=torch===2.13.0 (exactly that build, with CUDA, never its +cpu variant)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test fuzz mutants check format settings clean

setup: $(VENV)/.complete

$(VENV)/.complete: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

demo: setup
	$(BIN)/unet-factory demo

test: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

fuzz: setup
	nice $(BIN)/python -W ignore -m tests.fuzz

# The tool names modules by their paths, so the packages have to lie side by side. A run that was stopped goes on.
MUTANTS := build/mutants
mutants: setup
	mkdir -p $(MUTANTS)
	ln -sfn $(CURDIR)/unet_factory $(CURDIR)/training/unet_factory_training $(CURDIR)/tests $(CURDIR)/pyproject.toml $(MUTANTS)
	cd $(MUTANTS) && OMP_NUM_THREADS=1 nice $(CURDIR)/$(BIN)/mutmut run --max-children 1
	cd $(MUTANTS) && $(CURDIR)/$(BIN)/mutmut results

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The table in the operator's guide, from the fields of the settings.
settings: setup
	$(BIN)/unet-factory settings > $(VENV)/settings.md
	sed -i -e '/^<!-- settings:/,/^<!-- end of settings/{//!d' -e '}' -e '/^<!-- settings:/r $(VENV)/settings.md' docs/guide/operate.md

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
