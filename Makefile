# Each target is one command; the first one that runs makes the environment in .venv.
# TORCH_INDEX_URL=<index> takes torch from that index: the CPU build is much smaller.
PYTHON ?= python3
TORCH_INDEX_URL ?=
BIN := .venv/bin
# Faults of processes, and of containers where Docker is there.
CHAOS ?= tests/chaos
# All with a bar of docs/performance.md; they start what servers they need. Those of docs/scale.md,
# upload and load_server measure a running stack or many machines.
BENCH ?= train cache recording query checkpoints startup simulate many_jobs augment precision \
  probe predict few_labels false_positives tune demo

.PHONY: up down demo test test-servers test-slurm test-compose chaos check format notebook bench install clean

up:
	./mlflow_server/up

down:
	docker compose --profile '*' down

demo: install
	$(BIN)/galaxy-mlflow demo

test: install
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	  --ignore tests/servers --ignore tests/slurm --ignore tests/compose --ignore tests/chaos

test-servers: install
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/servers

test-slurm: install
	$(BIN)/pytest --numprocesses 0 tests/slurm

test-compose: install
	$(BIN)/pytest --numprocesses 0 tests/compose

chaos: install
	$(BIN)/pytest --numprocesses 0 $(CHAOS)

bench: install
	@missed=; for name in $(BENCH); do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py || missed="$$missed $$name"; \
	done; test -z "$$missed" || { echo "a bar is missed:$$missed"; exit 1; }

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebook: install
	$(BIN)/jupyter execute --inplace docs/published.ipynb

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX_URL),$(BIN)/pip install --constraint constraints.txt --no-deps --index-url $(TORCH_INDEX_URL) torch torchvision)
	$(BIN)/pip install --constraint constraints.txt --editable '.[server,ray,timm,tensorboard,dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
