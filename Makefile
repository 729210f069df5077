# Two commands: `make demo` and `make test`. Both set up .venv themselves; `make setup` does nothing when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
EDITABLE := $(foreach p,$(PLUGINS),-e $(dir $(p)))
WORKERS ?= 2

.PHONY: demo test setup lint types check docs monograph-audit bench mutate clean

demo: setup
	$(BIN)/diffcore run examples/mnist.yaml --out runs/mnist
	$(BIN)/diffcore run examples/mnist-meanflow.yaml --out runs/mnist-meanflow
	$(BIN)/diffcore compare runs/mnist runs/mnist-meanflow --out runs/report.html
	@echo "the report is at $(CURDIR)/runs/report.html"

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

setup: $(VENV)/.ready

$(VENV)/.ready: constraints.txt pyproject.toml $(PLUGINS)
	@$(PYTHON) -c 'import sys; sys.exit("diffcore needs Python 3.11 or newer, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group dev -e '.[report,testing]' $(EDITABLE)
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

check: lint types test

docs: setup
	$(BIN)/python docs/generate_hooks.py
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/generate_monograph.py
	$(BIN)/python docs/generate_index.py

monograph-audit: setup
	OMP_NUM_THREADS=1 $(BIN)/python docs/audit_monograph.py
	$(BIN)/python docs/generate_monograph.py

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py

mutate: setup
	$(BIN)/python -m tools.mutate $(MUTATE)

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis .mutate
