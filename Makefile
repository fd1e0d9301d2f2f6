# `make demo` and `make test` need Python 3.10 or later and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test check check-slow format docs ablations clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

# A video from a prompt, made by the small model inside the package.
demo: $(READY)
	@mkdir -p out
	@$(BIN)/istar t2v "a red circle moves right on a blue background" \
		--model tiny --seed 1 --output out/demo.mp4 --overwrite

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest
	$(BIN)/python -m build --no-isolation --outdir out/dist

check-slow: $(READY)
	$(BIN)/python -m pytest -m slow

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY)
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_training.py

ablations: $(READY)
	$(BIN)/python docs/generate_ablations.py

clean:
	rm -rf out build dist
