# Needs Python >= 3.11 with venv and pip; everything else is installed in .venv, pinned by hash.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Nothing is resolved: pip would find a newer release of a package with an extra, and refuse it.
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes
SOURCE := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
ARGS   ?=
# Debian 13 has RabbitMQ 4.0 and its Erlang; the tests start it from there, whatever is installed.
RABBITMQ4 ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/journey-consumer/debian-13

.DEFAULT_GOAL := help
.PHONY: help demo test test-rabbitmq4 check generate format coverage simulate bench soak cluster lock clean

help: ## List what can be made
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## Watch the service on embedded parts, in about a minute
	@$(BIN)/journey-consumer demo $(ARGS)

test: $(VENV)/.dev ## Run all tests (ARGS="-k name" for some); names skipped tests and reasons
	@$(BIN)/pytest $(ARGS)

test-rabbitmq4: $(VENV)/.dev $(RABBITMQ4)/usr/lib/rabbitmq ## Run the integration tests on RabbitMQ 4 (root, debootstrap)
	@TEST_RABBITMQ_ROOT=$(RABBITMQ4) $(BIN)/pytest $(or $(ARGS),tests/integration)

check: $(VENV)/.dev ## Run the linters, the type checker and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: $(VENV)/.dev ## Write the generated tables, dashboards and chart files (needs helm)
	@$(BIN)/python -m tools

format: $(VENV)/.dev ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.dev ## Run all tests and report the lines that they did not reach
	@$(BIN)/pytest --cov --cov-report=term --cov-fail-under=90 $(ARGS)

simulate: $(VENV)/.dev ## Run SEEDS simulated days with faults of every kind (default 1000)
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) $(ARGS)

bench: $(VENV)/.dev ## Measure speed and size against a real broker
	@$(BIN)/python -m tests.bench $(ARGS)

soak: $(VENV)/.dev ## Break one real broker, service and Registry for MINUTES (default 10); count every journey
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(ARGS)

cluster: $(VENV)/.dev $(RABBITMQ4)/usr/lib/rabbitmq ## Break three RabbitMQ nodes, 3.10 and 4.0, and count (root, iproute2)
	@$(BIN)/python -m tests.soak.cluster $(ARGS)
	@TEST_RABBITMQ_ROOT=$(RABBITMQ4) $(BIN)/python -m tests.soak.cluster $(ARGS)

# Universal: one lock holds for every platform and every Python that pyproject.toml allows.
COMPILE = $(VENV)-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock: $(VENV)-lock/.uv ## Renew the pinned dependencies from pyproject.toml
	$(COMPILE) --output-file requirements/run.lock pyproject.toml
	for extra in sandbox sqs; do \
		$(COMPILE) --output-file requirements/$$extra.lock --constraints requirements/run.lock \
			--extra $$extra pyproject.toml || exit 1; done
	$(COMPILE) --output-file requirements/dev.lock --constraints requirements/run.lock --all-extras pyproject.toml
	$(COMPILE) --output-file requirements/build.lock requirements/build.in

clean: ## Remove the environments and all caches
	rm -rf $(VENV) $(VENV)-lock build dist htmlcov .coverage* .*_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RABBITMQ4)/usr/lib/rabbitmq:
	@echo "make: downloading Debian 13 with RabbitMQ 4 (some 100 MB) from deb.debian.org into $(RABBITMQ4)"
	@mkdir -p $(dir $(RABBITMQ4))
	@log=$$(mktemp) && rm -rf $(RABBITMQ4).new && \
		{ debootstrap --variant=minbase --include=rabbitmq-server trixie $(RABBITMQ4).new >$$log 2>&1 || \
		{ tail -5 $$log >&2; exit 1; }; } && rm -rf $(RABBITMQ4) && mv $(RABBITMQ4).new $(RABBITMQ4) && rm $$log

# --- Environments ----------------------------------------------------------------------

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; name a Python >= 3.11: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $$($(PYTHON) --version) is too old; name a Python >= 3.11: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: this Python has no venv; install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "make: setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# Said before the first download; what pip has in its cache is not downloaded again.
packages = awk '/^[a-zA-Z].*==/ { n++ } END { printf "make: downloading %d Python packages (about $(1) MB) from PyPI\n", n }'

$(VENV)/.run: pyproject.toml requirements/build.lock requirements/sandbox.lock | $(BIN)/python
	@$(call packages,20) requirements/build.lock requirements/sandbox.lock
	@$(PIP) -r requirements/build.lock -r requirements/sandbox.lock
	@$(SOURCE)
	@touch $@

$(VENV)/.dev: pyproject.toml requirements/dev.lock $(VENV)/.run
	@echo "make: installing the tools for tests and checks"
	@$(call packages,130) requirements/dev.lock
	@$(PIP) -r requirements/dev.lock
	@$(BIN)/python -m pip check >/dev/null || { $(BIN)/python -m pip check; exit 1; }
	@touch $@

$(VENV)-lock/.uv:
	@echo "make: downloading uv (about 20 MB) from PyPI into $(VENV)-lock"
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip --disable-pip-version-check install --quiet uv
	@touch $@
