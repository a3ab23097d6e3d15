# Every command of the project. `make dev` and `make test` install what they need; nothing is installed by hand.
STAGE ?= dev
PYTHON ?= python3
NODE_MODULES := node_modules/.package-lock.json
DEV := .venv/.installed
ENGINE := .engine/venv/.installed
STRIPE_PEER := .engine/stripe/.installed

export UV_SYSTEM_CERTS = 1

.PHONY: install dev dev-down test lint format docs synth bench deploy lock clean

install: $(DEV) $(ENGINE) $(STRIPE_PEER) $(NODE_MODULES)

$(DEV): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements/dev.txt
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation \
		--editable . --editable layers/common --editable sdk/device
	@touch $@

$(ENGINE): requirements/engine.txt $(DEV)
	$(PYTHON) -m venv .engine/venv
	.venv/bin/uv pip sync --quiet --python .engine/venv/bin/python --require-hashes requirements/engine.txt
	@touch $@

$(STRIPE_PEER): requirements/stripe_peer.txt $(DEV)
	$(PYTHON) -m venv .engine/stripe
	.venv/bin/uv pip sync --quiet --python .engine/stripe/bin/python --require-hashes requirements/stripe_peer.txt
	@touch $@

$(NODE_MODULES): package-lock.json
	@command -v node >/dev/null || { echo "Node 20 or newer is needed: it runs the CDK, the model server and the AG-UI client" >&2; exit 1; }
	npm ci --ignore-scripts --silent
	@touch $@

dev: $(DEV)
	.venv/bin/python -m local.cli dev

dev-down: $(DEV)
	.venv/bin/python -m local.cli down

test: install
	.venv/bin/coverage erase
	.venv/bin/pytest --cov --cov-report= $(ARGS)
	.venv/bin/coverage report

lint: $(DEV)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy layers/common/python functions infra local benchmarks sdk/device tests

format: $(DEV)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: $(DEV)
	.venv/bin/python -m tests.support.requirements

# The cloud assembly of a stage, in build/cdk/<stage>; needs no credentials. Runs cdk-nag and cfn-lint.
synth: $(DEV)
	.venv/bin/python -m infra.app --stage $(STAGE) --out build/cdk/$(STAGE)

bench: install
	.venv/bin/python -m benchmarks

deploy: install
	.venv/bin/python -m infra.deploy --stage $(STAGE)

lock: $(DEV)
	for group in api agent_stream device_ingest billing_webhook background realtime infra engine stripe_peer uv dev; do \
		.venv/bin/uv pip compile --quiet pyproject.toml --group $$group --universal --generate-hashes --no-annotate \
			--python-version 3.11 --custom-compile-command "make lock" -o requirements/$$group.txt; \
	done

clean: dev-down
	rm -rf .local build cdk.out .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
