# Everything runs in .venv, which is made from the lock files, and made again only when they change.

RUN := .venv/bin/python
PYTEST := .venv/bin/pytest
READY := .venv/ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo demo-compose test test-quick test-docker test-long bench lint lock clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Back up a sample system through Airflow, destroy it, restore it, compare it (4 minutes)
	@python3 tools/setup.py programs libcurl tar
	@$(RUN) -m sandbox.demo $(ARGS)

demo-compose: $(READY) ## Start docker-compose.yaml with its sample system, and do the same there; needs Docker
	@$(RUN) -m sandbox.demo.compose $(ARGS)

test: $(READY) ## Run the tests; ARGS='tests/x -k y' narrows
	@python3 tools/setup.py programs libcurl tar zstd age openssl pgbouncer chromium
	@# Side by side first, more than cores, since they wait for servers too; a whole Airflow wants the machine for itself. Status 5 says that ARGS left nothing of a half.
	@fast=0; $(PYTEST) -n 3 --dist loadfile -m "not long and not airflow and not docker" $(ARGS) || fast=$$?; \
	slow=0; $(PYTEST) -m "airflow and not long and not docker" $(ARGS) || slow=$$?; \
	if [ $$fast = 5 ]; then exit $$slow; elif [ $$fast != 0 ] || [ $$slow = 5 ]; then exit $$fast; else exit $$slow; fi

test-quick: $(READY) ## Run the tests that need no server, no Airflow and no patience (1 minute)
	@python3 tools/setup.py programs libcurl tar zstd age openssl
	@$(PYTEST) -n 2 --dist loadfile -m "not servers and not airflow and not long and not compose and not slow and not docker" $(ARGS)

test-docker: $(READY) ## Run the tests with containers, on a Docker Engine of their own where the machine has none
	@$(RUN) -m sandbox.containers
	@$(PYTEST) -m "docker and not long" tests/docker $(ARGS)

test-long: $(READY) ## Run the long campaigns
	@python3 tools/setup.py programs libcurl tar zstd age openssl chromium
	@$(PYTEST) -m "long and not docker" $(ARGS)
	@$(RUN) -m sandbox.containers
	@$(PYTEST) -m "long and docker" tests/docker

bench: $(READY) ## Measure against the usual script, and write bench.json; ARGS=parse narrows, ARGS=--help says more
	@python3 tools/setup.py programs libcurl tar
	@$(RUN) -m sandbox.bench $(ARGS)

lint: $(READY) ## Check style, types, and which folder imports from which
	@.venv/bin/ruff check --quiet --output-format concise
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

# Index addresses and local folders of this machine have no place in a lock file.
lock: export UV_FIND_LINKS :=
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: $(READY) ## Compile requirements*.txt from requirements*.in; ARGS=--upgrade renews every pin
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links $(ARGS) requirements.in -o requirements.txt
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links $(ARGS) requirements-dev.in -o requirements-dev.txt

clean: ## Remove .venv and everything that was built
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache bench.json
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.txt requirements-dev.txt tools/setup.py tools/install.py $(wildcard tools/mongo/*)
	@python3 tools/setup.py
	@touch $@
