# `make demo` and `make test` are all a person needs; both install what is missing. See README.md.
.PHONY: help demo test check unit prove bench setup clean
.DEFAULT_GOAL := help
BIN := .venv/bin
WORKERS ?= 2

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16

demo: ## one agent's whole life on a private machine inside this one (root, under a minute)
	@test "$$(id -u)" = 0 || { echo "demo: error: it needs root, for mounts, loop devices and the agents' uids: sudo make demo" >&2; exit 77; }
	@tools/setup
	@$(BIN)/python -m demo

test: setup check ## everything: style, types, layers, every test, the demo among them (root)
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: setup ## style, types, layers, shell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	shellcheck initrd/*.sh initrd/dracut/*/*.sh initrd/initramfs-tools/hooks/* initrd/initramfs-tools/scripts/*/* tools/setup .ci/run nix/identity.sh

unit: setup ## the tests that need no root
	$(BIN)/pytest -q -n $(WORKERS) -m "not root"

prove: setup check ## every test with ten times the samples, and the benchmarks; writes docs/proof.md (root, over an hour)
	@$(BIN)/python tools/prove.py $(PARTS)

bench: setup ## sync, restore and the hook beside their peers (root)
	@$(BIN)/python -m bench

setup: ## Debian packages (root) and the Python environment in .venv, for everything here
	@tools/setup tests

clean: ## remove the Python environment and caches
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
