# From nothing but Python >= 3.11 and make:  make demo   make test
# TORCH_INDEX=URL takes torch from that package index; PYTHON=... names the interpreter to use.

VENV := .venv
BIN := $(VENV)/bin
SETUP := sh tools/setup.sh

.PHONY: setup demo test slow lint coverage clean

setup: $(VENV)/.installed

demo: setup
	@$(BIN)/gfs prune

# Two processes of one thread each: they share a machine of two cores without disturbing results.
test: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not multinode and not gpu and not soak"

coverage: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest --cov --cov-report=term

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.installed: pyproject.toml constraints.txt tools/setup.sh
	@$(SETUP) $(VENV) .

$(VENV)/.installed-dev: pyproject.toml constraints.txt tools/setup.sh
	@$(SETUP) $(VENV) ".[dev]"
