# Two commands for all: `make demo` shows the tool at work, `make test` checks it.
# Both set up their own virtual environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
JOBS ?= 2

.PHONY: demo test test-slow test-browser lint clean

# The core is enough for the demo; the tests want everything.
$(VENV)/core.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[video,plot,tfrecord,text,track,dev]'
	touch $@

# The main job on a world made on the spot: features, two stages, one result.
demo: $(VENV)/core.stamp
	$(BIN)/tcaf prepare synthetic --out $(DEMO)/world --overwrite
	rm -rf $(DEMO)/run
	$(BIN)/tcaf train --config synthetic --store $(DEMO)/world --out $(DEMO)/run
	$(BIN)/tcaf evaluate $(DEMO)/run --store $(DEMO)/world --per_class
	@echo
	@echo "How to go on: tcaf --help, tcaf train --help, and README.md for features of your own."

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS)

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow

# Needs Chromium: apt-get install chromium, or its path in CHROMIUM.
test-browser: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m browser

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO)
