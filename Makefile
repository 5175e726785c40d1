# `make help` lists the targets. Everything installs what it needs first.
SHELL := /bin/sh
BIN := .venv/bin
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Per cent of sandbox/ and cli/, branches too, that the tests have to reach.
COVERED := 95

# An image to build from where a registry is reachable, such as debian:trixie-slim.
BASE ?=
build_images = $(BIN)/sandbox images build $(if $(BASE),--base $(BASE))

help: ## List the targets
	@sed -n 's/^\([a-z%-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: images ## Set everything up and invoke the examples
	@scripts/demo

test: venv-dev images image-server test-tools ## Set everything up, check the code, run all tests
	@$(MAKE) --no-print-directory check
	$(BIN)/pytest --cov --cov-fail-under=$(COVERED)

test-unit: venv-dev test-tools ## Run the tests that need no engine
	$(BIN)/pytest --ignore tests/docker

check: venv-dev ## Lint, formatting, types, directions of imports; writes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

fix: venv-dev ## Format, repair what the linter can, and write the generated docs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/generate-docs

docs: venv-dev ## Generate the pages and tables of the docs that come from the code
	$(BIN)/python scripts/generate-docs

hooks: venv-dev ## Run `make check` at each commit from now on
	$(BIN)/pre-commit install

bench: venv-bench images bench-tools ## Run all benchmarks and compare them with the marks
	$(BIN)/python -m benchmarks --json build/benchmarks.json --save benchmarks/results

engine: ## Use a running container engine, else install and start one
	@scripts/engine

images: engine venv base-tools ## Build every image that is missing or out of date
	@$(build_images)

image-%: engine venv base-tools ## Build one image: image-python, image-node, …
	@$(build_images) $*

image-server: venv image-python ## Build the image of `sandbox serve`, for deploy/compose.yaml
	@scripts/server-image

base-tools:
	@scripts/base-tools $(BASE)

test-tools:
	@scripts/test-tools

bench-tools:
	@scripts/bench-tools

venv: .venv/.runtime
venv-dev: .venv/.dev
venv-bench: .venv/.bench

.venv/.runtime: pyproject.toml constraints.txt
	@scripts/venv '.[serve]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt
	@scripts/venv '.[dev]'
	@touch .venv/.runtime $@

.venv/.bench: pyproject.toml constraints.txt
	@scripts/venv '.[bench]'
	@touch .venv/.runtime $@

clean: ## Remove this project's containers, images, caches and virtual environment
	-@[ ! -x $(BIN)/sandbox ] || $(BIN)/sandbox images remove
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help demo test test-unit check fix docs hooks bench bench-tools engine images image-server base-tools test-tools venv venv-dev venv-bench clean
