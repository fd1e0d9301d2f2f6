# `make demo` and `make test` need Python 3.10 or later and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
LOWEST = $(VENV)-lowest
# A process per core, with an equal part of the tests in their order: a file's tests mostly share one,
# and its fixtures. A process that is done takes from the others, so that all end at about once.
PYTEST = -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
CORE = $(addprefix tests/,checkpoint generation models training transformer video_tokenizer \
	cli/test_commands.py media test_package.py test_parity.py test_pipeline.py \
	test_job.py test_request.py test_text_encoder.py)

FUZZ_CASES ?= 20000
FUZZ_SEED ?= $(shell date +%s)

.PHONY: demo test test-lowest check check-slow fuzz format docs docs-site tiny ablations clean

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
	$(BIN)/python $(PYTEST)

# The core with the lowest versions that pyproject.toml admits.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python $(PYTEST) $(CORE)

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-lowest.txt -e '.[test]'
	touch $@

check: $(VENV)/.ready-docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python $(PYTEST)
	$(BIN)/python -m build --no-isolation --outdir out/dist

check-slow: $(READY)
	$(BIN)/python $(PYTEST) -m slow

# The tests that try files which are almost takes, pictures or videos, with more of them than the
# suite has time for. The file at which one fails stays in out/fuzz; a seed gives the same again.
fuzz: $(READY)
	@mkdir -p out
	@echo FUZZ_SEED=$(FUZZ_SEED) FUZZ_CASES=$(FUZZ_CASES)
	FUZZ_SEED=$(FUZZ_SEED) FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest --timeout 0 \
		--basetemp out/fuzz tests/test_take_fuzz.py tests/media/test_media_fuzz.py

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY)
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_training.py
	$(BIN)/python docs/generate_performance.py
	$(BIN)/python docs/generate_chart.py

# The documentation as a site, out/site; a link that leads nowhere fails it.
docs-site: $(VENV)/.ready-docs
	$(BIN)/zensical build --strict --clean
	$(BIN)/python -m pytest tests/test_site.py

$(VENV)/.ready-docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# Continues training istar-tiny on one GPU; `make tiny` again continues where it stopped.
tiny: $(READY)
	$(BIN)/istar prepare configs/tiny-gpu/latents.toml --device cuda
	$(BIN)/istar train transformer configs/tiny-gpu/transformer.toml --device cuda
	rm -rf out/tiny
	$(BIN)/istar train pack out/tiny-gpu-transformer/model out/tiny

ablations: $(READY)
	$(BIN)/python docs/generate_ablations.py

clean:
	rm -rf out build dist .cache
