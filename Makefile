# Everything from a Python >= 3.11 with venv, as an ordinary user. `make` alone prints this list.
#
#   make conformance   run the core profile on this machine; the report goes to reports/<run-id>/
#   make check         lint, types and unit tests
#   make test          lint, workflows, types, unit tests, all sabotages, then all profiles on this machine
#   make bench         measure the suite itself, into reports/bench.json
#   make wheel         build the wheel and use it from a clean environment
#   make clean         remove what make, tox and the checkers made here; reports and tools stay
#
#   make conformance PYTHON=python3.13                   with another Python
#   make conformance ARGS='--requirement HANDSHAKE-4'    with options of `svidproof run`

PYTHON ?= python3
ARGS ?=
VENV := .venv
# A pip that does not check for its own updates and compiles nothing in advance.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV)/bin/python -m pip install --quiet --no-compile --no-input
SAY := @printf '==> %s\n'

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help conformance check test bench wheel clean

help:
	@sed -n '2,12s/^# \{0,1\}//p' Makefile

conformance: $(VENV)/.svidproof
	$(SAY) 'svidproof run'
	@$(VENV)/bin/svidproof run $(ARGS)

check: $(VENV)/.tox
	@$(VENV)/bin/tox run-parallel --parallel-no-spinner -e lint,types,unit

test: $(VENV)/.tox
	$(SAY) 'lint, workflows, types, unit tests, sabotages, profiles (tox makes an environment for each)'
	@rm -f .tox/skipped .pytest_cache/v/cache/lastfailed reports/selftest/selftest.json; code=0; \
	$(VENV)/bin/tox run -e lint,workflows,types,unit,selftest,local || code=$$?; \
	[ ! -s .tox/skipped ] || cat .tox/skipped; \
	[ $$code = 0 ] || $(VENV)/bin/python .ci/failed.py; exit $$code

bench wheel: $(VENV)/.tox
	@$(VENV)/bin/tox run -e $@

clean:
	rm -rf $(VENV) .tox build dist .mypy_cache .ruff_cache .pytest_cache
	find fixtures suites -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@found=$$($(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null); \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "svidproof needs Python 3.11 or later, $(PYTHON) is $${found:-not there}: install one and say make PYTHON=python3.X" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
	$(SAY) 'environment in $(VENV)'
	@$(PYTHON) -m venv --clear $(VENV)

# Editable, so that what runs is always what stands in this checkout: suites/ and manifests/ too.
$(VENV)/.svidproof: pyproject.toml | $(VENV)/bin/python
	$(SAY) 'svidproof and its dependencies'
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tox: pyproject.toml | $(VENV)/bin/python
	$(SAY) 'tox'
	@$(PIP) 'tox>=4.24,<5'
	@touch $@
