# Two commands need nothing before them: `make run` and `make test`.
.PHONY: run test setup lint fix check bench hostile contracts clean

SERVER := .venv/.ready-server
DEV := .venv/.ready-dev

run: $(SERVER)  ## start the system, run examples/ through it, show each verdict
	@scripts/delegated .venv/bin/python examples/tour.py

test: $(DEV)  ## everything, on the real kernel; what this machine cannot do is skipped by name
	@scripts/test-needs
	@scripts/delegated .venv/bin/python -m pytest

setup: $(SERVER)  ## only make .venv, with .venv/bin/enclave

lint: $(DEV)  ## read only
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy

fix: $(DEV)  ## the writing twin of lint
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

check: lint test  ## what a change must pass

bench: $(DEV)  ## every figure beside its bar; BENCH="--sessions 10000 --tenants 1000000" for long ones
	@scripts/delegated .venv/bin/python -m bench $(BENCH)

hostile: $(DEV)  ## what hostile programs get, as a matrix; fails if anything leaked that is not known to
	@scripts/delegated .venv/bin/python -m tests.hostile

contracts: $(DEV)  ## write contracts/ and the other checked-in snapshots anew
	@UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest -q tests -k snapshot

clean:
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(SERVER): pyproject.toml constraints.txt scripts/setup
	@scripts/setup server

$(DEV): pyproject.toml constraints.txt scripts/setup
	@scripts/setup dev
	@touch $(SERVER)
