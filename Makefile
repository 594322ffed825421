# Two commands on a fresh machine: `make demo` and `make test`. Both install first, into .venv here.

PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-all check format type bench clean

setup: .venv/.installed

# A stamp newer than what says which packages are needed makes the second call instant.
.venv/.installed: pyproject.toml deploy/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("asap needs Python 3.11 or newer; got " + sys.version.split()[0] + "; say `make setup PYTHON=python3.12`" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./deploy -e '.[dev,motions,logs]'
	touch $@

# The whole loop on a simulated robot whose rotors are heavier than the model says; a second call goes
# on where the first was stopped.
demo: setup
	$(BIN)/asap align --robot g1 --truth g1@genesis --motion walk --policy walk \
		--collect.episodes 6 --train.steps 300000 --episodes 128 --out runs/demo
	@echo "Look at runs/demo/report.html, or at the recording: $(BIN)/rerun runs/demo/judged/walk/robot.rrd"

test: setup
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist worksteal

test-all: setup
	$(BIN)/python -m pytest -q

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/vermin --quiet --no-tips --eval-annotations --violations -t=3.8- deploy/asap_deploy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/asap bench sim --json runs/bench/sim.json

clean:
	rm -rf .venv runs
