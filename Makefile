# Everything that a developer or CI runs. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(wildcard ext/*.pxd ext/*/*.pyx ext/*/*.pxd ext/*/*.h)
DASHBOARD := coinspace/endpoint/dashboard
# a mark per set of requirements, older than pyproject.toml = install again
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools
BUILT := build/.built
PAGE := build/.page
UP := --simulate --with coinone --with coinbase
SECONDS := 600
MINUTES := 60
SOAK := --faults
BUILD_EXT = { $(BIN)/python setup.py --quiet build_ext --inplace > build/log.txt 2>&1 || { cat build/log.txt; exit 1; }; }
# tests of compiled code; the sanitised builds have their own
CHECKED := $(shell grep -l coinspace._ext tests/unit/*.py) tests/property tests/fuzz --ignore tests/fuzz/test_sanitised.py
TESTS := $(CHECKED)
# most tests wait more than they compute; a file's tests stay together, slow files come first
WORKERS := 3
PYTEST := $(BIN)/python -m pytest -m "not slow"
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install lock build debug annotate run test test-debug test-newest test-wheel docs-check faults soak fuzz coverage bench bench-check bench-history bench-peers \
	report screenshots lint format types check audit dist clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: set PYTHON=…"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, was $$($(PYTHON) --version): set PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: install python3-venv"; exit 1; }

$(INSTALLED): pyproject.toml requirements/install.txt | $(BIN)/python
	@command -v $${CC:-cc} >/dev/null || command -v gcc >/dev/null || \
		{ echo "a C compiler is needed to build ext/: install gcc (Debian: apt-get install build-essential)"; exit 1; }
	@echo "installing into $(VENV), once; two or three minutes:"
	@echo "  1 of 3: packages of requirements/install.txt …"
	@$(PIP) install --require-hashes -r requirements/install.txt && \
		echo "  2 of 3: compiling ext/, 26 modules; a minute …" && \
		PYTHONWARNINGS=ignore $(PIP) install --no-build-isolation --no-deps --editable . || \
		{ echo "installing failed: see the lines above (network for packages, compiler for ext/)"; exit 1; }
	@mkdir -p build && touch $@ $(BUILT)

$(TOOLS): pyproject.toml requirements/tools.txt | $(INSTALLED)
	@$(PIP) install --require-hashes -r requirements/tools.txt
	@touch $@

$(BUILT): $(SOURCES) setup.py $(INSTALLED)
	@mkdir -p build
	@$(BUILD_EXT)
	@touch $@

$(PAGE): $(wildcard $(DASHBOARD)/*.*) $(INSTALLED)
	@echo "  3 of 3: libraries of the page …"
	@$(BIN)/python -m coinspace.endpoint.dashboard.build
	@touch $@

# programs with an environment of their own: build/NAME has the packages of requirements/NAME.txt
build/%/.installed: requirements/%.txt | $(BIN)/python
	@echo "installing into build/$* …"
	@$(BIN)/python -m venv build/$*
	@build/$*/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $< || \
		{ echo "$< could not be installed: check the network"; exit 2; }
	@touch $@

# the resolver asks the index that pip is set up with; no address gets into the files
RESOLVE = env $$($(BIN)/python -m pip config get global.index-url 2>/dev/null | sed s/^/UV_DEFAULT_INDEX=/) \
	build/uv/bin/uv pip compile --quiet --upgrade --universal --generate-hashes \
	--no-emit-index-url --no-header --no-annotate
# the oldest Python of a file; the peers of today need a newer one than CoinSpace
OLDEST := --python-version 3.11
OLDEST_OF_PEERS := --python-version 3.13

lock: build/uv/.installed  ## record the newest allowed versions with their hashes in requirements/
	@$(RESOLVE) $(OLDEST) pyproject.toml --group build -o requirements/install.txt
	@$(RESOLVE) $(OLDEST) pyproject.toml --group build --group test --group bench --group lint \
		--constraint requirements/install.txt -o requirements/tools.txt
	@for name in uv audit page; do $(RESOLVE) $(OLDEST) --group $$name -o requirements/$$name.txt || exit; done
	@$(RESOLVE) $(OLDEST_OF_PEERS) --group peers -o requirements/peers.txt

audit: build/audit/.installed  ## compare the locked packages with known advisories, or report that there are none to compare with
	@$(BIN)/python -m tests.audit build/audit/bin/pip-audit

install: $(BUILT) $(PAGE)  ## make .venv, install, build ext/ and the page's libraries

build: $(BUILT)  ## build ext/ for speed

debug: $(INSTALLED)  ## build ext/ with bounds and None checks
	@export COINSPACE_BUILD=debug; $(BUILD_EXT)
	@rm -f $(BUILT)

annotate: $(INSTALLED)  ## show which Cython lines call Python: build/cython/ext/*/*.html
	@export COINSPACE_ANNOTATE=1; $(BUILD_EXT)

run: install  ## run the whole platform on simulated exchanges
	@echo "starting the platform on simulated exchanges (ten seconds; Ctrl-C stops it) …"
	@exec $(BIN)/python -m coinspace up $(UP)

test: install $(TOOLS)  ## run every test
	@$(PYTEST) $(PARALLEL)

test-newest: install $(TOOLS)  ## run unit, property and fuzz tests on the checked build under the newest Python available
	@tests/newest.sh -m "not slow" $(PARALLEL) tests/unit tests/property tests/fuzz --ignore tests/fuzz/test_sanitised.py

test-debug: debug $(TOOLS)  ## run tests of compiled code on the checked build (TESTS=tests: every one), then build for speed again
	@$(PYTEST) $(PARALLEL) $(TESTS); status=$$?; \
		$(BUILD_EXT); exit $$status

docs-check: install $(TOOLS)  ## compare the documents with the code: links, paths, commands, settings, examples
	@$(BIN)/python -m pytest -q tests/unit/test_documents.py

# recordings are replayed at a pace that traced code does not keep
coverage: install $(TOOLS)  ## which lines of Python and Cython the tests reach: build/coverage
	@export COINSPACE_BUILD=trace; $(BUILD_EXT)
	@rm -f build/coverage.data*
	@$(BIN)/coverage run -m pytest -m "not slow" --timeout 1200 --ignore tests/unit/test_bench.py --ignore tests/flow/test_recordings.py; \
		status=$$?; $(BIN)/coverage combine --quiet; $(BIN)/coverage html --quiet; \
		$(BIN)/coverage report --skip-covered --sort cover; rm -f ext/*/*.c; \
		$(BUILD_EXT); exit $$status

faults: install $(TOOLS)  ## the long form of the fault tests
	@$(BIN)/python -m pytest -m slow --timeout 1800 tests/flow

soak: install $(TOOLS)  ## measure whole exchanges for an hour under random faults (MINUTES=10 SOAK= without)
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(SOAK)

fuzz: install $(TOOLS)  ## fuzz every entry point, and compiled code under sanitisers (SECONDS=3600)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

bench-check: install $(TOOLS)  ## run each measurement once, without its gates
	@$(BIN)/python -m pytest benchmarks --quiet --once --timeout 600

bench: install $(TOOLS)  ## measure every stage and check its gates
	@$(BIN)/python -m pytest benchmarks --quiet --no-header --timeout 1800

bench-history: $(INSTALLED)  ## name what became worse by more than 10 % since the run before on this machine
	@$(BIN)/python -m benchmarks.history

bench-peers:  ## measure the newest cryptofeed, ccxt and nautilus_trader, with the Python that they need
	@benchmarks/peers.sh $(PYTHON)

report: $(INSTALLED)  ## write benchmarks/RESULTS.md and its chart from the last measurements
	@$(BIN)/python -m benchmarks.report

screenshots: install $(TOOLS)  ## take pictures of the page: docs/screenshots
	@$(BIN)/python -m tests.browser.screenshots

lint: $(TOOLS)  ## check style of Python and Cython, and spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PATH=$(abspath $(BIN)):$$PATH $(BIN)/cython-lint ext
	@$(BIN)/codespell

format: $(TOOLS)  ## format Python and sort imports
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(TOOLS) $(BUILT)  ## check types, and that the stubs match the compiled modules
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest coinspace._ext --ignore-disjoint-bases --ignore-missing-stub

check: lint types test  ## lint, types and tests: what CI runs

test-wheel: install  ## install the wheel into an environment of its own and run it, for each Python on this machine
	@tests/wheel.sh $(BIN)/python

dist: install  ## build the wheel and the source archive
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist")' > build/log.txt

clean:  ## remove everything that was built; data stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find coinspace -name '*.so' -delete
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf $(DASHBOARD)/node_modules $(DASHBOARD)/dist
