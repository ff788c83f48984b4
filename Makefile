# The commands of this repository. Each does its own set-up, in .venv, and does it again only when what it needs has changed.

PYTHON ?= python3
BIN := .venv/bin
BENCH := .venv-bench/bin
# Handed to pytest as they are: make test PYTEST_FLAGS='-x tests/config'
PYTEST_FLAGS ?=
# Handed to the benchmarks as they are: make bench BENCH_FLAGS=--quick
BENCH_FLAGS ?=

.PHONY: help serve test check coverage docs site changelog release-check bench

help:
	@echo "make serve   the demo project with nine workers, on http://127.0.0.1:8000 (Ctrl-C stops it)"
	@echo "make test    make check, then all tests"
	@echo "make check   lint, types, import contracts"
	@echo "make coverage  whether the tests of the policy reach every branch of it"
	@echo "make docs    write the generated files of docs/ and deploy/ anew"
	@echo "make site    the documentation as a site, in build/site"
	@echo "make release-check   what is released is built, installed from wheel and sdist, and served from each"
	@echo "make bench   Arbiter and its peers, measured: 25 minutes; with BENCH_FLAGS=--quick half a minute (--help: more)"

# exec: Arbiter takes the shell's place, so that a signal reaches it and its exit status is the recipe's.
serve: .venv/.serve
	cd deploy/demo && ../../$(BIN)/python manage.py migrate --noinput --verbosity 0
	cd deploy/demo && exec ../../$(BIN)/arbiter -w 9 project.wsgi:application

# PYTHONSAFEPATH: the top-level folders config/ and workers/ must not be importable under these names (docs/adr/0001).
# loadgroup: the tests that share one wheel or one installation run in one process.
test: check
	PYTHONSAFEPATH=1 $(BIN)/pytest -n auto --dist loadgroup $(PYTEST_FLAGS)

check: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONSAFEPATH=1 $(BIN)/lint-imports

docs: .venv/.test
	$(BIN)/python -m arbiter.config.render > docs/settings.md
	$(BIN)/python -m arbiter.config.render schema > docs/arbiter.schema.json
	$(BIN)/python docs/make_reference.py
	$(BIN)/python -m arbiter.templates deploy
	$(BIN)/python -m benchmarks.report

# The policy is to be covered whole, every branch of it, by the tests that need no process.
coverage: .venv/.test
	PYTHONSAFEPATH=1 $(BIN)/pytest tests/fleet -n auto --cov=arbiter.fleet --cov=arbiter.lifecycle --cov=arbiter.succession \
	  --cov=arbiter.books --cov-branch --cov-report=term-missing --cov-fail-under=100 $(PYTEST_FLAGS)

site: .venv/.test
	$(BIN)/python -m sphinx -W --keep-going -n -q -b dirhtml docs build/site
	@echo "build/site/index.html"

changelog: .venv/.test
	$(BIN)/towncrier build --draft --version next

release-check: .venv/.test
	PYTHONSAFEPATH=1 $(BIN)/pytest tests/packaging
	$(BIN)/towncrier build --draft --version next

# The figures of a whole run become docs/performance.md by `make docs`.
bench: .venv-bench/.ready
	$(BENCH)/python -m benchmarks $(BENCH_FLAGS)

.venv/.serve: pyproject.toml deploy/demo/requirements.txt | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable . --requirement deploy/demo/requirements.txt
	@touch $@

.venv/.test: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The peers have a .venv of their own. One that can't be compiled is left out: the benchmarks then say so, and go on.
.venv-bench/.ready: pyproject.toml benchmarks/requirements.txt benchmarks/built.txt | .venv/bin/pip
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v wrk && command -v h2load; } >/dev/null; then \
	  echo "Installing what the benchmarks need of Debian: wrk, nghttp2-client, and for uWSGI and bjoern gcc, python3-dev, libev-dev."; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq wrk nghttp2-client gcc python3-dev libev-dev; \
	fi
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install --quiet --editable . --requirement benchmarks/requirements.txt
	@grep -v '^#' benchmarks/built.txt | while read -r peer; do \
	  $(BENCH)/python -m pip install --quiet "$$peer" >.venv-bench/build.log 2>&1 || \
	    echo "$$peer can't be built here, and is left out (why: .venv-bench/build.log)." \
	         "It needs a C compiler, Python's headers, and for bjoern libev: Debian's gcc, python3-dev, libev-dev." >&2; \
	done
	@touch $@

# Debian's python3 has no ensurepip, and so makes no usable .venv, without the package python3-venv.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Arbiter needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
	       "Install one, and name it: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'from ensurepip import bootstrap' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "$(PYTHON) has no ensurepip: installing Debian's package python3-venv."; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; \
	  else \
	    echo "$(PYTHON) has no ensurepip, which a .venv needs. On Debian and Ubuntu, as root:" \
	         "apt-get install python3-venv" >&2; exit 1; \
	  fi; }
	$(PYTHON) -m venv .venv
