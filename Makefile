# A machine with Python 3.11 or newer and make needs nothing else: every target brings what it uses into .venv.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := .[postgresql,mysql,asyncio,pydantic,redis,web]
URL ?=
PORT ?= 8000
HOURS ?= 8
SHOP_URL ?= sqlite:///$(CURDIR)/.cache/shop/shop.db
NEWER := 3.12 3.13 3.14
# Images of containers often forbid it, and then each process that the tests start, of hundreds, compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo shop screenshots test test-lowest roles test-pythons test-python lint format audit model reliability soak clusters bench bench-peers docs clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -U 'pip>=25.1'

# A stamp for each group, so that the demo does not wait for the tests' tools.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	@$(BIN)/pip install -q -e '$(EXTRAS)' && touch $@
$(VENV)/.%: pyproject.toml $(VENV)/.run
	@$(BIN)/pip install -q --group $* && touch $@

demo: $(VENV)/.run ## run a recorded day of payments through it: SQLite, or URL=postgresql+psycopg://…
	@$(BIN)/idemtable demo $(if $(URL),--url '$(URL)')

shop: $(VENV)/.shop ## the example shop, on SQLite: open http://127.0.0.1:8000, or another PORT=
	@mkdir -p .cache/shop
	@cd docs/examples && SHOP_URL='$(SHOP_URL)' $(abspath $(BIN))/python -m alembic -c shop/alembic.ini upgrade head
	@cd docs/examples && SHOP_URL='$(SHOP_URL)' exec $(abspath $(BIN))/python -m uvicorn --factory shop.app:create_app --port $(PORT)

test: $(VENV)/.test $(VENV)/.lint $(VENV)/.docs $(VENV)/.recipes $(VENV)/.shop $(VENV)/.browser ## every promise, on real servers that the tests bring themselves
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS) # one more than cores: a test of a race mostly waits

test-lowest: $(BIN)/python ## the contract suite and the features on the lowest versions that pyproject.toml allows
	@test -x .venv-lowest/bin/pip || $(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/pip install -q --disable-pip-version-check -U 'pip>=25.1'
	@$(BIN)/python tests/lowest.py > .venv-lowest/constraints.txt
	@.venv-lowest/bin/pip install -q -c .venv-lowest/constraints.txt -e '$(EXTRAS)' --group test
	@.venv-lowest/bin/python -c 'import sqlalchemy, alembic; print("SQLAlchemy", sqlalchemy.__version__, "Alembic", alembic.__version__)'
	@.venv-lowest/bin/python -m pytest -n 2 --dist worksteal -W default tests/contract tests/unit tests/tokens tests/guards tests/inbox $(ARGS)

roles: $(VENV)/.test $(VENV)/.recipes ## the contract suite as database users with the rights that are printed, and no other
	@IDEMTABLE_TEST_ROLES=1 $(BIN)/python -m pytest -n 2 --dist worksteal -k 'not sqlite and not toy' tests/contract $(ARGS)

test-pythons: ## the contract suite and the features on every newer Python that is found here
	@untested=; failed=; for version in $(NEWER); do \
		found=; for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
			"$$python" -c 'import sys, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != "'$$version'")' 2>/dev/null \
				&& { found=$$python; break; }; \
		done; \
		if [ -z "$$found" ]; then untested="$$untested $$version"; \
		else $(MAKE) --no-print-directory test-python VENV=.venv-$$version PYTHON="$$found" || failed="$$failed $$version"; fi; \
	done; \
	test -z "$$untested" || echo "!!! NOT TESTED !!! No Python$$untested with venv, on PATH or from pyenv" >&2; \
	test -z "$$failed" || { echo "Failed on Python$$failed" >&2; exit 1; }

test-python: $(VENV)/.test # on the Python of VENV
	@$(BIN)/python -VV
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/contract tests/unit tests/tokens tests/guards tests/inbox $(ARGS)

lint: $(VENV)/.lint $(VENV)/.test $(VENV)/.recipes ## what a reader would complain about
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || ($(BIN)/ruff format --check . ; exit 1)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --config pyproject.toml 2>/dev/null || $(BIN)/lint-imports --config pyproject.toml

format: $(VENV)/.lint ## put the code into its form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

audit: ## what is known against the versions that an installation brings, in a venv of its own
	@$(MAKE) --no-print-directory audit-here VENV=.venv-audit

audit-here: $(VENV)/.audit # what is installed in VENV; one that nobody knows anything of is a failure too
	@$(BIN)/pip freeze --exclude-editable > $(VENV)/versions.txt
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r $(VENV)/versions.txt

model: $(VENV)/.test ## search the protocol and its mutants in every order, with Spin; or some: ARGS="fused ONE_OWNER"
	@$(BIN)/python -m tests.model $(ARGS)

reliability: $(VENV)/.test $(VENV)/.recipes ## faults, interleavings and mutants on every engine, an hour and a half; or some: ARGS="E3 --engine mysql9.7"
	@$(BIN)/python -m tests.reliability $(ARGS)

soak: $(VENV)/.test ## load, kills, cuts, stops and purges for HOURS=8
	@$(BIN)/python -m tests.reliability.soak --hours $(HOURS) $(ARGS)

clusters: $(VENV)/.test ## clusters of every kind under load, their nodes killed and switched: 20 minutes
	@# asyncmy leaves the socket of a connection that its server has ended to the garbage collector
	@$(BIN)/python -m pytest -s -W ignore::pytest.PytestUnraisableExceptionWarning tests/clusters $(ARGS)

bench: $(VENV)/.test $(VENV)/.recipes ## what a claim costs, as ratios within one run: docs/benchmarks.md
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-peers: ## the same work under other libraries, in a venv of its own
	@$(MAKE) --no-print-directory bench-beside VENV=.venv-peers

bench-beside: $(VENV)/.peers # what is installed in VENV
	@$(BIN)/python -m tests.benchmarks.peers $(ARGS)

screenshots: $(VENV)/.test $(VENV)/.shop $(VENV)/.browser ## take those of the example shop anew
	@IDEMTABLE_TEST_SCREENSHOTS=docs/examples/shop/screenshots $(BIN)/python -m pytest -q tests/examples/test_browser.py -k screenshots

docs: $(VENV)/.docs ## build the documentation into site/
	@rm -rf site; test ! -d .cache || find .cache -maxdepth 1 -type f -delete # --clean would take the test servers too
	@$(BIN)/python -m tests.docs.site

clean: ## remove what the targets made
	rm -rf $(VENV) .venv-lowest .venv-peers .venv-audit $(NEWER:%=.venv-%) .cache site build dist
