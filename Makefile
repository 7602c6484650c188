# WasmAgentTrainer: `make` prints what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
READY := $(VENV)/.ready
ROOMS := user_monitor task_learner agent_trainer agent_runner
MARKED := kafka or x11 or browser or slow

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

setup: $(READY) ## virtual environment with everything, from the hashed lock
$(READY): requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/system-packages.sh python3-venv
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip -q
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "installing packages (the first time: about 5 GB, most of it PyTorch)"
	@$(UV) pip install -q --compile-bytecode --python $(PY) --require-hashes --no-deps -r requirements/dev.txt
	@$(UV) pip install -q --python $(PY) --no-deps --no-build-isolation -e .
	@$(PY) -m services.task_learner.discovery  # compiles what the first search would wait for
	@touch $@

browser: ## find Chromium, or install it with the system's package manager
	@scripts/system-packages.sh chromium

demo: setup browser ## the whole pipeline, from watching to doing, in one command
	@$(VENV)/bin/wat demo

run: setup ## the four services in one process on the embedded log
	@$(VENV)/bin/wat up

replay: setup ## a recorded UI log through the whole pipeline
	@$(VENV)/bin/wat demo --recorded

up: ## the four services and Apache Kafka in containers
	@docker compose up -d --build && docker compose ps

down: ## stop the containers; volumes stay
	@docker compose down

logs: ## follow what the containers say
	@docker compose logs -f --tail 100

up-check: ## build the images and drive a recorded log to a run in a container, killing services on the way
	@scripts/up-check.sh

test: setup ## fast tests; ROOM=user_monitor: one room's
	@$(PY) -m pytest -n 2 -m "not ($(MARKED) or gpu or long)" $(if $(ROOM),tests/unit/$(ROOM) tests/integration/test_$(ROOM).py,tests)

test-all: setup browser kafka-jars ## everything a test can need: Kafka, Chromium, Xvfb; then finetune's own
	@scripts/system-packages.sh xvfb xterm python3-tk
	@$(PY) -m pytest -n 2 -m "$(MARKED)" tests
	@$(MAKE) --no-print-directory test-finetune

test-long: setup browser ## endurance: an agent and a person side by side, a runner killed
	@$(PY) -m pytest -m long tests

kafka-jars: ## fetch Apache Kafka from Maven Central, digests pinned
	@scripts/system-packages.sh openjdk-17-jre-headless maven
	@tests/kafka/kafka.sh fetch

kafka: kafka-jars ## run a single-node broker on 127.0.0.1:29092 until Ctrl-C
	@tests/kafka/kafka.sh run var/kafka

lint: setup ## ruff, without changing anything
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

fix: setup ## format, and mend what ruff can
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

types: setup ## mypy --strict on shared and services
	@$(VENV)/bin/mypy

docs: setup ## write the schemas and the AsyncAPI document from the records
	@$(PY) -m shared.schemas.document docs/schemas
	@$(PY) -m scripts.env_example > .env.example

lock: ## renew requirements/*.txt
	@test -x $(UV) || (test -x $(PY) || $(PYTHON) -m venv $(VENV); $(PY) -m pip install -q uv)
	@scripts/lock.sh

bench: bench-bus bench-start bench-demo ## every benchmark of this machine, into var/bench/

bench-bus: setup kafka-jars ## the bus: embedded and Kafka, beside plain SQLite and plain aiokafka
	@$(PY) -m tests.bench.bus

bench-start: setup ## ten starts of `wat up` to ready, and what it uses when nothing happens
	@$(PY) -m tests.bench.starts

SEEDS_GIVEN := $(SEEDS)
SEEDS ?= 10
bench-demo: setup browser ## the demonstration for SEEDS seeds, judged by its database
	@$(PY) -m tests.bench.demo --seeds $(SEEDS)

bench-agents: setup browser ## agents from people's recordings, on live pages; DATA=folder ROW=main|3|10|30|noise|drift|end-to-end TASKS=a,b SEEDS=0:49 TRAININGS=3 PLAYERS=2 QUICK=1 SHOW=task:seed
	@$(PY) -m tests.bench.agents --data $(or $(DATA),$(error DATA=folder of recordings)) \
	  $(if $(TASKS),--tasks $(TASKS)) $(if $(SEEDS_GIVEN),--seeds $(SEEDS)) $(if $(QUICK),--quick) \
	  $(if $(ROW),--row $(ROW)) $(if $(TRAININGS),--training-seeds $(TRAININGS)) $(if $(PLAYERS),--players $(PLAYERS)) $(if $(SHOW),--show $(SHOW))

bench-learner: setup ## discovery on the UI logs of a folder: DATA=folder [QUICK=1]
	@$(PY) -m tests.bench.learner "$(or $(DATA),$(error DATA=folder of UI logs))" $(if $(QUICK),--quick)

torture: setup browser kafka-jars ## kill -9 at random under load; KILLS=200 BUS=log|kafka
	@$(PY) -m tests.torture --kills $(or $(KILLS),200) --bus $(or $(BUS),log)

torture-broker: setup kafka-jars ## the broker away for 10 minutes, then killed 20 times, under load
	@$(PY) -m tests.torture.broker --away 600
	@$(PY) -m tests.torture.broker --kills 20

images-check: ## each room's lock alone can import that room, and no other's packages
	@scripts/images-check.sh

clean: ## remove what was built, not what was recorded
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis var/bench
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

-include finetune/finetune.mk
.PHONY: help setup browser demo run replay up down logs up-check test test-all test-long kafka-jars kafka lint fix types docs lock bench bench-bus bench-start bench-learner bench-agents torture torture-broker images-check clean
