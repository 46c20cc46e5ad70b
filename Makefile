# Everything works from a fresh clone: each target makes the virtual environment it needs, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := converge-core converge-cli converge-storage-file converge-storage-sqlite converge-websocket converge-otel converge-llm converge-mcp
MANIFESTS := pyproject.toml $(DISTRIBUTIONS:%=%/pyproject.toml)
EDITABLE := $(DISTRIBUTIONS:%=-e ./%)

.PHONY: demo test check soak docs bench build clean

demo: $(VENV)/installed  ## run the audit of the standard library
	$(BIN)/converge run examples/audit/converge.toml --progress

test: $(VENV)/developing  ## run the tests
	$(BIN)/python -m pytest -m "not soak" -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/developing  ## lint, format, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

soak: $(VENV)/developing  ## the long runs
	$(BIN)/python -m pytest -m soak --timeout 3600

docs: $(VENV)/developing  ## build the documentation into docs/_build
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build

bench: $(VENV)/developing  ## run the benchmarks
	$(BIN)/python -m pip install --quiet --group bench
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

build: $(VENV)/developing  ## build every distribution into dist/
	for name in $(DISTRIBUTIONS); do $(BIN)/python -m build --outdir dist $$name || exit 1; done

clean:  ## remove what the targets made
	rm -rf $(VENV) dist docs/_build examples/*/.converge

$(VENV)/installed: $(MANIFESTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Converge needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' 'hatchling>=1.27' 'editables>=0.5'
	$(BIN)/python -m pip install --quiet --no-build-isolation --check-build-dependencies $(EDITABLE)  # one backend for all
	$(BIN)/python -m compileall -q $(DISTRIBUTIONS:%=%/src)  # as pip does with a wheel
	touch $@

$(VENV)/developing: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-compile --group dev  # the tests import little of it
	touch $@
