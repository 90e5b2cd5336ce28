# make selfplay: set up and play; make test: set up and check everything. Both work on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := common game mcts inference_server records workers bench

.PHONY: selfplay test quick bench-check kernels chaos lint setup clean

selfplay: $(VENV)/installed
	$(BIN)/grove selfplay --game connect_four --games 200 --out runs/first

# A file's tests stay in one process: they share what it has started. tests/conftest.py says how many processes there
# are, and in which order files come.
test: $(VENV)/installed-tests
	$(MAKE) --no-print-directory --jobs 2 lint kernels
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A minute or so, for between two edits: the checks of `make test` without what runs Grove with all its processes.
quick: $(VENV)/installed-tests
	$(MAKE) --no-print-directory --jobs 2 lint kernels
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow"

# What real measurements should find on a quiet machine; docs/guide/measuring.md. About ten minutes; `make test` has none of it.
bench-check: $(VENV)/installed-tests kernels
	$(BIN)/python -m pytest -n 0 --timeout 900 tests/bench_check

# Where nobody has compiled them yet, one process does so for all: two at once would do it twice.
kernels: $(VENV)/installed-tests
	$(BIN)/python -m tests.support.compile_kernels

# Three minutes of processes killed and stopped, models swapped and a full disk; docs/reliability.md.
chaos: $(VENV)/installed
	$(BIN)/grove bench soak --minutes 3

# The rooms lie side by side and are imported as parts of `grove`: both checkers see them so through links.
lint: $(VENV)/installed-tests
	$(BIN)/ruff check .
	rm -rf build/lint && mkdir -p build/lint/grove
	ln -s $(foreach room,$(ROOMS),$(CURDIR)/$(room)) $(CURDIR)/grove/* build/lint/grove
	ln -s $(CURDIR)/pyproject.toml build/lint
	cd build/lint && $(CURDIR)/$(BIN)/mypy --cache-dir $(CURDIR)/.mypy_cache
	cd build/lint && $(CURDIR)/$(BIN)/lint-imports --cache-dir $(CURDIR)/.import_linter_cache

setup: $(VENV)/installed-tests

# torch first and alone: the constraint names a build that pip finds ready-made on CPU machines.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-tests: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV)
