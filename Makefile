# Two commands for all: `make demo` shows the tool at work, `make test` checks it.
# Both set up their own virtual environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
# Processes that run the tests.
JOBS ?= 2

.PHONY: demo test test-slow test-browser fuzz campaign bench docs lint clean

# The demo needs the extras `video`, `text` and `plot`; the tests want everything.
$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[video,text,plot]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[video,text,hub,plot,tfrecord,track,remote,cluster,export,app,docs,dev]'
	touch $@

# An answer before anything is trained: a ready model, on clips panned over two photographs. Then the
# main job on a world made on the spot: videos with sound, features, two stages, answers for clips of
# classes that were never seen.
NAMES := "temple, flower blooming, cat purring, playing guitar, motorcycle racing, swimming"
UNSEEN := "$(DEMO)/videos/blue triangle spinning, drum between two"/*_0000.mp4 \
	"$(DEMO)/videos/green disc jumping, beep between two"/*_0000.mp4 \
	"$(DEMO)/videos/white star spinning, drum between two"/*_0000.mp4

demo: $(VENV)/demo.stamp
	rm -rf $(DEMO)/run $(DEMO)/store.extracted
	$(BIN)/python examples/pan_photographs.py $(DEMO)/photographs
	$(BIN)/tcaf predict imagenet $(DEMO)/photographs --classes $(NAMES)
	$(BIN)/tcaf render --looks 4 --sounds 3 --relations together alternating \
		--clips_per_class 7 --out $(DEMO)/videos --overwrite
	$(BIN)/tcaf prepare videos $(DEMO)/videos --labels $(DEMO)/videos/labels.csv \
		--audio logmel --visual efficientnet_lite0:frames=1 --out $(DEMO)/store --overwrite
	$(BIN)/tcaf train --store $(DEMO)/store --out $(DEMO)/run \
		--text.source attributes --text.path $(DEMO)/videos/attributes.csv
	$(BIN)/tcaf evaluate $(DEMO)/run --store $(DEMO)/store
	$(BIN)/tcaf predict $(DEMO)/run $(UNSEEN) --top_k 3 --timeline $(DEMO)/answer.png
	@echo
	@echo "The pictures $(DEMO)/answer_1.png to _3.png show what was seen and heard, and the answers."
	@echo "How to go on: tcaf --help, README.md, and docs/your-own-videos.md for clips of your own."

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS)

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow -n $(JOBS)

# Damages files of every kind that a command reads, many more than test-slow does, and watches time
# and memory; keeps those that did not end well in $(FAULTS).
FILES ?= 30000
FAULTS ?= faults
fuzz: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.reliability.damage --files $(FILES) --work $(FAULTS)

# Kills, damages, attacks and loads what is here for half an hour; writes results/reliability.md.
SEED ?= 0
campaign: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.reliability --out results/reliability.md --seed $(SEED)

# Measures all that is said about speed, for a quarter of an hour; writes results/speed.md.
bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.speed --out results/speed.md

# Needs Chromium: apt-get install chromium, or its path in CHROMIUM.
test-browser: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m browser

# The site of docs/, into build/site. The drawings and the notebook are kept: made anew, they differ
# only where what they are made from has changed.
docs: $(VENV)/dev.stamp
	$(BIN)/python website/drawings.py
	$(BIN)/python website/notebook.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO)
