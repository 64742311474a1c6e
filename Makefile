# Two commands do everything: `make demo` and `make test`. Both set themselves up in .venv; the second time is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GROUP ?= all
MINUTES ?= 10

.PHONY: help demo test lint bench compare chaos setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    four unmodified programs are paused, moved, crashed and preempted, and end identical"
	@echo "make test    every check and test (about twenty-five minutes on two cores)"
	@echo "make bench   figures with their goals and bars; GROUP=mechanism for one group"
	@echo "make compare our policy beside seven rivals and the upper bound, on recorded traces (see docs/simulator.md)"
	@echo "make chaos   kill server, agents and ranks at random for MINUTES=$(MINUTES), SEED=n to repeat a run"

setup:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh "$(VENV)"

demo: setup
	@$(BIN)/python -m demo

lint: setup
	@sh scripts/lint.sh $(BIN)

test: setup
	@sh scripts/test.sh $(BIN)

bench: setup
	@$(BIN)/python -m bench $(GROUP)

compare: setup
	@$(BIN)/python -m bench.compare

chaos: setup
	@$(BIN)/python -m tests.chaos.run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf $(VENV) build
