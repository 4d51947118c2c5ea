# Two commands for people: `make demo` and `make test`. Both create .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test soak soak-nightly lint bench docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	touch $@

demo: install
	$(BIN)/python examples/elevation.py

test: install
	$(BIN)/python -m pytest -n auto

soak: install
	$(BIN)/python -m pytest -n auto -m soak

soak-nightly: install
	TILEBOX_LOCAL_SOAK=nightly $(BIN)/python -m pytest -n auto -m soak

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python docs/make_pages.py

bench: install
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
