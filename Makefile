# make demo        train attention beside two baselines on the embedded digits and draw its map
# make test        the suite without its slow part        make test-slow   the slow part
# make example     results.db.example, from nothing       make figures     the README's figures, from it
# make lint        ruff and mypy                          make format      ruff, changing files
# make clean       remove what make made (never results.db)
#
# Variables: PYTHON (3.11 or newer), VENV (.venv), WORKERS (test processes), ARGS (more arguments for pytest).

VENV ?= .venv
WORKERS ?= auto
ARGS ?=
CANDIDATES := python3 python3.11 python3.12 python3.13 python3.14
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Workers share the cores; one thread each is faster than many that compete.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8

.PHONY: demo test test-slow example figures lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.fltk
	@mkdir -p plots
	$(BIN)/fltk train --method local,fedavg-ft,attn --alpha 0.1
	$(BIN)/fltk plot attention-maps latest -o plots/demo-attention.png

test: $(VENV)/.dev
	$(PYTEST) $(ARGS)

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow $(ARGS)

example: $(VENV)/.fltk
	FLTK="$(BIN)/fltk" sh experiments/example.sh results.db.example

# Run numbers are those of experiments/example.sh.
figures: $(VENV)/.fltk
	FLTK="$(BIN)/fltk --db results.db.example" sh experiments/figures.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# pip learnt dependency groups in 25.1, which is newer than what Python 3.11 brings along.
$(VENV)/.pip:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; say where with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.fltk: $(VENV)/.pip pyproject.toml
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.fltk
	$(PIP) install --quiet --group dev
	@touch $@
