# Every command of the project. `make dev` and `make test` install what they need; nothing is installed by hand.
STAGE ?= dev
# Lambda's version where it is found, else `python3`.
PYTHON ?= $(or $(shell python3 -m infra.interpreters),python3)
# One more than there are processors, since tests wait a quarter of their time: for engines, sockets, processes.
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
ENGINE_TESTS = tests/e2e tests/integration/core tests/integration/billing/test_webhook.py

export UV_SYSTEM_CERTS = 1
# Hundreds of processes run the same modules: what one of them compiled is kept for the others, also where the
# environment would have it otherwise, as many images of containers do.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install dev dev-down test coverage explore test-localstack engines lint format docs map context clients synth bench deploy lock clean

# Virtual environments and npm packages, each only when its lock file changed; checks Python and Node first.
install:
	@$(PYTHON) -m local.prerequisites

dev: install
	@.venv/bin/python -m local.cli dev

dev-down: install
	@.venv/bin/python -m local.cli down

test: install
	.venv/bin/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

# The tests, which lines of the product they ran, and whether these are as many as they must be.
coverage: install
	.venv/bin/coverage erase
	@$(MAKE) --no-print-directory test ARGS="--cov --cov-report= $(ARGS)"
	.venv/bin/coverage report

# The tests by dice that nobody has thrown yet: tests/support/seeds.py.
explore:
	@$(MAKE) --no-print-directory test SEED=random

lint: install
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy layers/common/python functions infra local benchmarks sdk/clients sdk/device sdk/python tests

format: install
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: install
	.venv/bin/python -m tests.support.requirements
	.venv/bin/python -m tests.support.faults
	PYTHONPATH=layers/common/python:functions .venv/bin/python -m tests.support.contract

# The rooms of the code, drawn from its imports, and walks through them: docs/architecture.md.
map: install
	.venv/bin/python -m tests.support.map

# A new context from templates/context: CRUD of one noun, with its tests. NOUN=jar; PLURAL where it is not NOUN with an s.
context: install
	@.venv/bin/python -m local.context $(NOUN) $(PLURAL)
	@$(MAKE) --no-print-directory docs map

# Typed Python and TypeScript clients of the API, in build/clients.
clients: install
	.venv/bin/python sdk/clients/generate.py

# The cloud assembly of a stage, in build/cdk/<stage>; needs no credentials. Runs cdk-nag and cfn-lint.
# SETTINGS names a JSON file with a stage's own values (origins, domain, alarm address): infra/config.py. STAGE=prod needs one.
synth: install
	.venv/bin/python -m infra.app --stage $(STAGE) --out build/cdk/$(STAGE) $(if $(SETTINGS),--settings $(SETTINGS))

bench: install
	.venv/bin/python -m benchmarks

deploy: install
	.venv/bin/python -m infra.deploy --stage $(STAGE) $(if $(SETTINGS),--settings $(SETTINGS))

# The tests of docs/engines.md on LocalStack 4.14; what it lacks is listed by name. LOCALSTACK=host: never its container.
test-localstack: install
	@.venv/bin/python -m local.prerequisites localstack$(LOCALSTACK:%=-%)
	.venv/bin/pytest --engine=localstack $(LOCALSTACK:%=--localstack=%) $(ENGINE_TESTS) $(ARGS)

# Both columns of docs/engines.md, by running the same tests on both engines; without the one that walks the whole
# description of the API for minutes and asks nothing of the engine.
engines: install
	@.venv/bin/python -m local.prerequisites localstack-host
	.venv/bin/pytest --engine=ministack --engine-report docs/engines --ignore=tests/e2e/test_schemathesis.py $(ENGINE_TESTS)
	.venv/bin/pytest --engine=localstack --localstack=host --engine-report docs/engines --ignore=tests/e2e/test_schemathesis.py $(ENGINE_TESTS)
	.venv/bin/python -m tests.engines.report

lock: install
	for group in api agent_stream device_ingest billing_webhook background realtime previews segments infra engine stripe_peer contract uv dev; do \
		.venv/bin/uv pip compile --quiet pyproject.toml --group $$group --universal --generate-hashes --no-annotate \
			--python-version 3.11 --custom-compile-command "make lock" -o requirements/$$group.txt; \
	done
	cd tests/engines/localstack && $(CURDIR)/.venv/bin/uv pip compile --quiet pyproject.toml --universal \
		--generate-hashes --no-annotate --custom-compile-command "make lock" -o $(CURDIR)/requirements/localstack.txt

clean: dev-down
	rm -rf .local build cdk.out .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
