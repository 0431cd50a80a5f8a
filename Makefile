# Two commands: `make run` shows the gateway at work, `make test` proves it. Both do all set-up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable

.PHONY: run test lint bench soak crash million clean
run: $(VENV)/installed
	$(BIN)/twistd -n mailgw

test: $(VENV)/ready
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/ready
	$(BIN)/python benchmarks/run.py $(ARGS)

# Ten minutes: a day's mail of every kind; what grows, is lost or complains is a failure.
soak: $(VENV)/ready
	$(BIN)/python tests/live/soak.py $(ARGS)

# Some minutes: fifty times kill -9 under load; what is lost or in pieces is a failure.
crash: $(VENV)/ready
	$(BIN)/python tests/live/crash.py $(ARGS)

# Five minutes and 3 GB of disk: a million waiting messages, half of them for a dead host; a start or new mail that is slow is a failure.
million: $(VENV)/ready
	$(BIN)/python tests/live/million.py $(ARGS)

$(VENV)/installed: setup.cfg pyproject.toml
	@echo "Installing mailgw and what it needs into $(VENV)/; this is done once and takes a moment."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	@touch $@

$(VENV)/ready: $(VENV)/installed
	$(INSTALL) '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) demo *.egg-info
