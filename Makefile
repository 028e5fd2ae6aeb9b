.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := preemptc runtime/preempt_runtime models bench tests docs

.PHONY: help setup demo test lint type unit test-gpu golden bench bench-gpu bench-gpu-pair bench-gpu-deadlines bench-gpu-portable bench-gpu-gates bench-gpu-quick bench-commands bench-policies bench-simulation bench-schedulability bench-deadlines publish fuzz ptx size clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(VENV)/.installed ## Create the virtual environment with everything installed

$(VENV)/.installed: pyproject.toml runtime/pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e 'runtime[cpu]' -e '.[cpu,dev]'
	@touch $@

demo: setup ## Compile two networks, run them with and without preemption, show what it gains
	$(BIN)/python -m bench.start

test: setup lint type unit ## Lint, type-check and run every test that needs no GPU

lint: setup ## Check style and the direction of imports
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

type: setup ## Check types
	$(BIN)/mypy

unit: setup ## Run every test that needs no GPU
	$(BIN)/python -m pytest -q -W error

test-gpu: setup ## Run the tests that need an NVIDIA GPU with TensorRT; says what it skips and why
	$(BIN)/python -m pytest -W error -rs -m gpu tests/gpu

golden: setup ## Rewrite the golden files, to be reviewed as a diff
	$(BIN)/python -m pytest -q -m golden --update-golden

bench: setup ## Measure every zoo network (about an hour on 2 cores); resumable
	$(BIN)/python -m bench.networks

bench-gpu: setup ## Measure networks on the GPU of this machine; resumable, `python -m bench.gpu --help`
	$(BIN)/python -m bench.gpu

bench-gpu-pair: setup ## Measure an urgent network beside a long one on the GPU of this machine
	$(BIN)/python -m bench.gpu_pair

bench-gpu-deadlines: setup ## Run five networks with deadlines on the GPU of this machine, with and without points
	$(BIN)/python -m bench.gpu_deadlines

bench-gpu-portable: setup ## Compile for a GPU that is elsewhere, then build that bundle on the one that is here
	$(BIN)/python -m bench.gpu_portable both

bench-gpu-gates: setup ## Measure what gates cost and gain on the GPU of this machine; again goes on where it was
	@failed=; for step in cost points calls networks preempt held faults cpu pair 'soak --number 1' 'soak --number 2'; do \
	  $(BIN)/python -m bench.gpu_gates $$step || failed="$$failed, $$step"; done; \
	$(BIN)/python -m bench.publish || exit 1; \
	if [ -n "$$failed" ]; then echo "failed:$${failed#,}"; exit 1; fi

bench-gpu-quick: setup ## Try every GPU benchmark on small networks (2 minutes); results in build_cache alone
	$(BIN)/python -m bench.gpu --quick
	$(BIN)/python -m bench.gpu_pair --quick
	$(BIN)/python -m bench.gpu_deadlines --quick
	$(BIN)/python -m bench.gpu_portable both --quick
	for step in networks pair held faults; do $(BIN)/python -m bench.gpu_gates $$step --quick || exit 1; done

bench-commands: setup ## Measure commands as whole processes, and the dispatcher's own time
	$(BIN)/python -m bench.commands

bench-policies: setup ## Measure how long each policy takes to decide
	$(BIN)/python -m bench.policies

bench-simulation: setup ## Measure how many segments a second are simulated
	$(BIN)/python -m bench.simulation

bench-schedulability: setup ## Check response-time bounds on 20,000 random task sets, count what cutting gains (6 minutes)
	nice $(BIN)/python -m bench.schedulability

bench-deadlines: setup ## Run five networks with deadlines on this machine (30 minutes, leave it alone meanwhile)
	$(BIN)/python -m bench.deadlines

publish: setup ## Put the newest results into docs/results and the README
	$(BIN)/python -m bench.publish

fuzz: setup ## 10,000 damaged bundles: only BundleError may come out
	$(BIN)/python tests/runtime/fuzz_bundle.py --cases 10000 --seed 0

ptx: setup ## Make the gates' PTX anew from their CUDA C (x86_64, no GPU needed)
	$(BIN)/python -m tests.packaging.nvrtc

size: ## Count the lines of each module
	@wc -l $$(git ls-files 'preemptc/*.py' 'runtime/*.py') | sort -n

clean: ## Remove the environment, the cache and what tests left
	rm -rf $(VENV) build_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info runtime/*.egg-info
