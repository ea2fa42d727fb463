# Everyday commands. Variables: PYTHON, TORCH_INDEX (see tools/setup.sh), PYTEST_ARGS.
PYTHON ?= python3
TORCH_INDEX ?=
PYTEST_ARGS ?=
SETUP = PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" tools/setup.sh

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-slow check format docs wheel clean

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## quantize the small model that comes as a package
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" tools/demo.sh

setup: ## create .venv with everything needed for development
	@$(SETUP) dev

test: ## run the tests that take seconds
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" tools/test.sh $(PYTEST_ARGS)

test-slow: setup ## run all tests, the slow ones too
	.venv/bin/python -m pytest -q $(PYTEST_ARGS)

check: setup ## run all that must pass before a change is merged
	TORCH_INDEX="$(TORCH_INDEX)" tools/check.sh

format: setup ## rewrite the sources in the house style
	.venv/bin/python -m ruff check --fix autoround backends tools tests
	.venv/bin/python -m ruff format autoround backends tools tests

docs: setup ## build the documentation site into build/docs/site; a link that leads nowhere is an error
	.venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[docs]"
	tools/check.sh docs

wheel: setup ## build the source distribution and the wheel into dist/
	.venv/bin/python -m build --no-isolation --outdir dist .

clean: ## remove .venv, builds and caches
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find autoround backends tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
