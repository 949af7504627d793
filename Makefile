# Needs Python 3.11 or newer with venv and pip; each target installs the rest into .venv.
# Another interpreter: make PYTHON=python3.13 ... (after make clean).

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet
CODE := $(wildcard iii_anyio tests examples benchmarks)
ARGS ?=

# pyright: the version of constraints.txt, no look for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help demo dev test nodejs browser interop check lint types bench soak fuzz coverage format docs pictures dist changelog clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: $(VENV)/.installed-all ## a tour of the SDK against the embedded engine
	$(RUN) examples/demo.py $(ARGS)

dev: $(VENV)/.installed-all ## the development engine with an example application
	$(RUN) examples/dev.py $(ARGS)

test: check nodejs ## lint, types and every test (one file: make test ARGS=tests/test_layers.py)
	$(RUN) -m pytest --quiet --numprocesses=auto --dist=worksteal $(ARGS)

nodejs: $(VENV)/.installed-dev
	$(RUN) -m tests.nodejs

browser: $(VENV)/.installed-dev ## the console in a headless Chromium, which is installed where that is possible
	$(RUN) -m tests.browser.chromium || { apt-get update -qq && apt-get install -qq -y --no-install-recommends \
		chromium-headless-shell; } || $(RUN) -m playwright install --only-shell chromium
	$(RUN) -m pytest tests/browser $(ARGS)

interop: $(VENV)/.installed-dev ## judges from outside: other SDKs, Autobahn (one: make interop ARGS=node)
	$(RUN) -m tests.interop.run $(ARGS)

check: lint types ## lint and types, without tests

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff format --check
	$(RUN) -m ruff check

types: $(VENV)/.installed-dev
	$(RUN) -m mypy $(CODE)
	$(RUN) -m pyright --pythonpath $(RUN) $(CODE)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m pyright --verifytypes iii_anyio --ignoreexternal

bench: $(VENV)/.installed-bench ## the benchmarks, about 15 minutes (in short: make bench ARGS=--quick)
	$(RUN) -m benchmarks.run $(ARGS)

soak: $(VENV)/.installed-dev ## minutes of random faults: make soak ARGS="10 --seed 7"
	$(RUN) -m benchmarks.soak $(ARGS)

fuzz: $(VENV)/.installed-dev ## inputs of all kinds into what takes them (longer: make fuzz ARGS="--seconds 600")
	$(RUN) -m tests.fuzz $(ARGS)

coverage: $(VENV)/.installed-dev ## the tests, with the lines and branches they miss
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest $(ARGS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

format: $(VENV)/.installed-dev ## format the code and mend what ruff can
	$(RUN) -m ruff check --fix-only
	$(RUN) -m ruff format

# With --quiet MkDocs would not be strict.
docs: $(VENV)/.installed-docs ## the pages, with the reference made from the docstrings, in site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --config-file .mkdocs.yml $(ARGS)

pictures: $(VENV)/.installed-dev ## those of the command line and the console in docs/pictures, from real runs
	$(RUN) -m tests.cli.pictures
	$(RUN) -m tests.browser.pictures

dist: $(VENV)/.installed-dev ## wheel and sdist in dist/, tried in a fresh environment (others: make dist ARGS=python3.13)
	$(RUN) -m tests.release.build $(or $(ARGS),$(PYTHON))

changelog: $(VENV)/.installed-dev ## what the next release would say
	$(RUN) -m towncrier build --draft --version next

clean: ## remove .venv and every cache
	rm -rf $(VENV) .venv-interop dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf tests/interop/node/node_modules tests/interop/rust/target examples/node/node_modules
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp a set of extras; `dev` holds `all`. The versions hold for build tools too: newer pips read the second name.
$(VENV)/.installed-%: export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
$(VENV)/.installed-%: export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(RUN)
	$(PIP) install --editable '.[$*]'
	touch $@

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0] \
		+ ": make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
