# `make demo` and `make test` need Python 3.10 or later and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# A worker per core; a file's tests stay with one of them, and share its fixtures.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
LOWEST = $(VENV)-lowest

.PHONY: demo test test-lowest check check-slow format docs ablations clean

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
	$(PYTEST)

# The core's tests with the lowest versions that pyproject.toml admits.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		tests/checkpoint tests/cli/test_commands.py tests/generation tests/text_encoder \
		tests/transformer tests/video_tokenizer tests/test_[a-oq-z]*.py

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-lowest.txt -e . --group test
	touch $@

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST)
	$(BIN)/python -m build --no-isolation --outdir out/dist

check-slow: $(READY)
	$(PYTEST) -m slow

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
