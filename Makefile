# `make` lists the commands. Each creates the virtual environment first, if it is missing.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PYTEST_OPTIONS := --numprocesses 3 --dist loadfile --no-loadscope-reorder
# Schemathesis, for the fuzzed API alone, takes 4 s of each process.
UNFUZZED := -p no:schemathesis --ignore tests/service/test_api_fuzzed.py

.DEFAULT_GOAL := help
.PHONY: help install java chromium run train test test-all lint types tests faults soak format docs lock bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create the virtual environment and install everything into it

$(INSTALLED): requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; set PYTHON= to one" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

java: $(INSTALLED) ## check for Java 17, 21 or 25; install Debian's if there is none and apt-get may be used
	@missing=; \
	$(PY) -m recommender.spark.java >/dev/null 2>&1 || missing=openjdk-17-jre-headless; \
	ldconfig -p | grep -q liblapack || missing="$$missing libopenblas0-serial"; \
	if test -n "$$missing" && test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		apt-get -qq update; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; \
	fi; \
	$(PY) -m recommender.spark.java

chromium: ## install Debian's Chromium for the tests of the page, which are skipped without one
	@{ command -v chromium && command -v chromedriver; } >/dev/null || test "$$(id -u)" != 0 || \
		{ apt-get update -qq && apt-get install -qq -y chromium chromium-driver; }

run: java ## train once, then serve on PORT until Ctrl-C; without MONGO_URI, on a generated city
	@$(PY) -m recommender.demo run

train: java ## train once; if that fails, make prints the exit code and ends with 2
	@$(PY) -m recommender.demo train

test: lint types tests ## lint, types and every test

lint: $(INSTALLED) ## check with ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(INSTALLED) ## check types with mypy
	$(PY) -m mypy

# In xdist's own order, files with few but long tests would run last, in one process.
tests: java ## every test, with a real mongod and a real Spark
	$(PY) -m pytest $(PYTEST_OPTIONS) $(UNFUZZED)

test-all: lint types java chromium ## the same with what takes longer: fuzzing, benchmarks, more faults
	$(PY) -m pytest $(PYTEST_OPTIONS) -m "not slow"

faults: java ## inject every fault of docs/faults.md, and write that page (some 25 minutes)
	$(PY) -m pytest tests/faults -m "slow or not slow" --numprocesses 3 --dist load \
		--write-table docs/faults.md

soak: java ## inject random faults for MINUTES (20), from SEED (1), and print what readers saw
	$(PY) -m tests.faults.soak --minutes $(or $(MINUTES),20) --seed $(or $(SEED),1)

format: $(INSTALLED) ## format the code as `make lint` checks it
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(INSTALLED) ## write the generated parts of docs/ and .env.example
	$(PY) -m pytest --quiet tests/test_docs.py --write-docs

# For Python 3.11 or later on any machine. No address of a package index is written into it.
lock: $(INSTALLED) ## write requirements.lock, the exact versions that the image installs
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" requirements.txt --output-file requirements.lock

bench: java ## time the whole cycle at full scale (some 15 minutes, 12 GB of memory)
	$(PY) -m benchmarks.cycle

clean: ## remove the virtual environment, caches and everything under var/
	rm -rf $(VENV) var .mypy_cache .ruff_cache .pytest_cache .hypothesis
