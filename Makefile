# Every command of the README and of .ci/run; each does its own set-up.
PYTHON ?= python3
# A GPU install: make setup TORCH=torch===2.13.0 (exactly that build, with CUDA, never its +cpu variant)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup dist docs demo test bench fuzz torture load mutants sbom audit check format settings vendor screenshots notebooks clean

setup: $(VENV)/.complete

$(VENV)/.complete: constraints.txt pyproject.toml hatch_build.py unet_factory/model/make_weights.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	@test -f unet_factory/model/_make_weights.so || \
	    echo "No C compiler: networks are made by PyTorch alone, several times slower. Install GCC 12 or Clang first." >&2
	touch $@

# Wheels: the software, a package for each shipped model, and the demo's scans.
dist: setup
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . ./packages/*

# The documentation as a site, in build/site; a link that leads nowhere is an error.
docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/site

demo: setup
	$(BIN)/unet-factory demo

# Threads of tests that wait for each other sleep, as a worker's do: many processes want the same cores.
test: export OMP_WAIT_POLICY = PASSIVE
test: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Benchmarks; their areas are listed by make bench ARGS=--help, figures in docs/results/speed.md.
# make bench ARGS='--only load,http --check' fails when a figure misses what it is held to.
# Threads of all contestants sleep while they wait for each other, as a worker's do.
bench: export OMP_WAIT_POLICY = PASSIVE
bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

# Large installations, simulated from what a job costs; make scale ARGS=--measure measures that again first.
.PHONY: scale
scale: setup
	$(BIN)/python -m benchmarks.scale $(ARGS)

# nnU-Net, one of the opponents, in an environment of its own: it brings packages that our own tools do not bear.
.PHONY: nnunet
nnunet:
	$(PYTHON) -m venv build/nnunet
	build/nnunet/bin/python -m pip install --quiet "$(TORCH)" nnunetv2 safetensors

fuzz: setup
	nice $(BIN)/python -W ignore -m tests.fuzz

# Faults of every kind against all roles, and a proof from the history; ARGS='--minutes 30 --seed 7', --hours, --publish.
# Figures in docs/results/torture.md.
torture: setup
	$(BIN)/python -m tests.torture $(ARGS)

# Many clients at once; ARGS='--minutes 10 --publish'. Figures in docs/results/load.md. locust has an environment of
# its own, because it replaces what other libraries import.
load: setup
	test -x build/locust/bin/locust || { $(PYTHON) -m venv build/locust && \
	    build/locust/bin/python -m pip install --quiet --constraint constraints.txt locust; }
	$(BIN)/python -m tests.load $(ARGS)

# Mutation testing; figures in docs/results/mutants.md. A run that was stopped goes on where it was;
# make mutants SAMPLE='*__mutmut_*7' judges only the mutants whose number ends in 7. The tool finds packages by their
# path, so they lie side by side there. Fewer than 85 % killed is an error.
MUTANTS := build/mutants
SAMPLE ?=
mutants: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[mutants]"
	mkdir -p $(MUTANTS)
	ln -sfn $(CURDIR)/unet_factory $(CURDIR)/training/unet_factory_training $(CURDIR)/tests $(CURDIR)/pyproject.toml $(MUTANTS)
	cd $(MUTANTS) && OMP_NUM_THREADS=1 nice $(CURDIR)/$(BIN)/mutmut run --max-children 1 $(if $(SAMPLE),'$(SAMPLE)')
	cd $(MUTANTS) && $(CURDIR)/$(BIN)/mutmut results --all true | awk -f $(CURDIR)/tests/mutants.awk

# What is installed by constraints.txt, as a CycloneDX bill of materials: the same file for the same versions.
SECURITY_TOOLS := build/security
sbom: setup $(SECURITY_TOOLS)
	$(SECURITY_TOOLS)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
	    --output-file build/sbom.cdx.json $(BIN)/python

# Pinned versions with known vulnerabilities, as PyPI tells them. An index that tells of none (most mirrors) is an error.
audit: $(SECURITY_TOOLS)
	grep -v '^#' constraints.txt > build/audited.txt
	$(SECURITY_TOOLS)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
	    --vulnerability-service pypi --requirement build/audited.txt

$(SECURITY_TOOLS):
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet "cyclonedx-bom==7.5.0" "pip-audit==2.10.1" || { rm -rf $@; exit 1; }

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

# The page's files of other projects, from npm; the versions are in the list.
PAGE := service/unet_factory_service/page
vendor:
	grep -v '^#' $(PAGE)/vendored.txt | while read -r package file served; do \
	    folder=build/npm/$$package; \
	    test -d "$$folder" || { mkdir -p "$$folder" && tar -xz -C "$$folder" -f "build/npm/$$(npm pack --silent --pack-destination build/npm "$$package")"; } || exit 1; \
	    install -D -m 644 "$$folder/package/$$file" "$(PAGE)/static/vendor/$$served" || exit 1; \
	done

# The README's picture of the page, in Debian's chromium.
screenshots: setup
	$(BIN)/python -m tests.screenshots

# What the example notebooks show, by running them against a factory of their own.
notebooks: setup
	$(BIN)/python -m tests.notebooks

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
