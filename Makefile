# `make demo` runs the main job, `make test` the tests; each builds .venv on its first call.
# `make test-oldest` runs the tests on the oldest releases that setup.cfg promises, in .venv-oldest.
# `make docs` builds the site of the documents in build/docs, from .venv-docs.
PYTHON ?= $(shell command -v python3.11 || echo python3)
OLDEST_PYTHON ?= python3.10
REQUIREMENTS := requirements.txt
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-oldest upstream-tests mutation fuzz stress soak compat lint \
	docs package env clean

# Threads that spin while they wait cost a busy machine most of its speed.
demo: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/blendprune demo --output output/demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

# More cases of what other tests show.
test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-oldest:
	$(MAKE) test VENV=.venv-oldest PYTHON=$(OLDEST_PYTHON) REQUIREMENTS=requirements-oldest.txt

# Runs detectron2's own tests without the overlay and with it; DETECTRON2_ROOT is its checkout.
upstream-tests: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/upstream.py $(DETECTRON2_ROOT)

# Changes the package in small ways, and lists what the tests do not notice; a sample of minutes.
mutation: $(READY)
	$(BIN)/python tests/mutation.py $(MUTATION)

# Ten thousand hostile and broken files against everything that reads one; ten minutes.
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

# The overlay comes and goes in a thousand random orders on four threads.
stress: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.stress

# Train, prune, fine-tune and load in one process for an hour: memory, threads and files stay flat.
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak

# Pythons, PyTorchs and detectron2s, each in its own environment in build/compat: what applies, what
# passes. COMPAT=NAME chooses; DETECTRON2_ROOT and ADELAIDET_ROOT name checkouts. See tests/compat.
compat: $(READY)
	$(BIN)/python -m tests.compat $(COMPAT)

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy

# Fails on every link and anchor that leads nowhere. Needs no network once .venv-docs is there.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# Builds wheel and sdist in build/package, and tries the wheel in an empty environment, whose packages
# come from pip's index: set PIP_CONSTRAINT to choose the build of PyTorch.
package: .venv-package/.ready
	rm -rf build/package
	.venv-package/bin/python -m build --no-isolation --outdir build/package
	.venv-package/bin/twine check --strict build/package/*
	.venv-package/bin/python tests/package.py build/package

env: $(READY)

$(READY): $(REQUIREMENTS) requirements-detectron2.txt setup.cfg pyproject.toml
	@echo "installing PyTorch, detectron2 and the rest in $(VENV): about 3 minutes without output, 6.5 GB"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r $(REQUIREMENTS)
	site=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	$(BIN)/python -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.10 \
		--require-hashes --upgrade --target "$$site" -r requirements-detectron2.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv-docs/.ready: requirements-docs.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet -r $<
	touch $@

.venv-package/.ready: requirements-package.txt
	test -x .venv-package/bin/python || $(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install --quiet -r $<
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-docs .venv-package output build *.egg-info
