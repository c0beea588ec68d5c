# `make` lists the commands. Each makes the virtual environment first, if it is not there.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install java run train test lint types tests faults format bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make the virtual environment and install everything into it

$(INSTALLED): requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; set PYTHON= to one" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

java: $(INSTALLED) ## check for Java 17 or 21; install Debian's where there is none and we may
	@$(PY) -m recommender.java --install

run: java ## train once, then serve on PORT until Ctrl-C; without MONGO_URI, on a generated city
	@$(PY) -m recommender.demo run

train: java ## train once; make itself ends with 2 where the training fails, and says its code
	@$(PY) -m recommender.demo train

test: lint types tests ## lint, types and every test

lint: $(INSTALLED) ## what ruff finds
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(INSTALLED) ## what mypy finds
	$(PY) -m mypy

# As reordered by xdist, files of few but long tests would come last, for one process.
tests: java ## every test, with a real mongod and a real Spark
	$(PY) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

faults: java ## hurt it in every way that docs/faults.md tells, and write that anew (some 45 minutes)
	$(PY) -m pytest tests/faults -m "slow or not slow" --numprocesses 3 --dist load \
		--write-table docs/faults.md

format: $(INSTALLED) ## lay the code out as `make lint` wants it
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: java ## time the whole cycle at full scale (some 15 minutes, 12 GB of memory)
	$(PY) -m benchmarks.cycle

clean: ## remove the virtual environment, caches and everything under var/
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .hypothesis
