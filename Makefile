# The commands of this project. Each line calls a script, a CMake preset or a test runner, which can be called alone.
.DEFAULT_GOAL := help
.PHONY: help setup build test unit parity e2e faults test-cluster test-gpu asan tsan demo bench bench-gpu bundle lint format coverage clean

BUILD := build/release
PYTEST := .venv/bin/python -m pytest -q
export PATH := $(CURDIR)/.deps/bin:$(CURDIR)/.venv/bin:$(PATH)
export RANKWISE_BUILD := $(CURDIR)/$(BUILD)
# mpirun refuses root without both: containers and CI run as root.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1

help: ## this list
	@sed -En 's/^([a-z0-9-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what is missing: packages, Rust, .venv (root or sudo)
	@tools/setup.sh

build: setup ## compile into build/release
	cmake --preset release && cmake --build --preset release

demo: setup ## tune a real model on two ranks and show what it learned
	cmake --preset release && cmake --build --preset release --target rankwise
	.venv/bin/python tools/demo.py

test: unit ## everything that proves the build: unit, parity and end-to-end tests
	$(PYTEST) $(wildcard tests/tools tests/parity tests/e2e)

unit: build ## the C++ tests alone
	ctest --test-dir $(BUILD) --output-on-failure --parallel $(shell nproc)

parity: build ## the same numbers as PEFT and transformers
	$(PYTEST) tests/parity

e2e: build ## whole runs of the program
	$(PYTEST) tests/e2e

faults: build ## stop, kill and hold runs at random moments, load the endpoint; RANKWISE_TIMES=N says how often
	RANKWISE_FULL=1 RANKWISE_RESULTS=tests/faults/results/random_moments.md $(PYTEST) -s tests/e2e/test_random_faults.py
	$(PYTEST) tests/faults
	.venv/bin/python tests/faults/endpoint_load.py

test-cluster: build ## Kubernetes: control plane, MPI operator, the image's pods; root, Go, debootstrap, iproute2
	tools/cluster_build.py
	$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/cluster

test-gpu: $(if $(TESTS),,build) ## what only GPUs show; TESTS=FOLDER: with the programs of an unpacked `make bundle BUNDLE=--tests`
	$(if $(TESTS),RANKWISE_BUILD=$(abspath $(TESTS))) tests/gpu/run.sh

asan: setup ## the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
tsan: setup ## the C++ tests under ThreadSanitizer
asan tsan:
	cmake --preset $@ && cmake --build --preset $@
	ctest --test-dir build/$@ --output-on-failure --parallel $(shell nproc)

bench: build ## speed and memory beside PEFT
	.venv/bin/python tests/bench/run.py

bench-gpu: ## the same on the GPUs of this host; BENCH="--rankwise ..." says more
	$(or $(wildcard .venv/bin/python),python3) tests/bench/gpu/run.py $(BENCH)

bundle: setup ## pack the program for a GPU host; BUNDLE=--with-mpi adds Open MPI, --tests the programs of test-gpu
	cmake --preset release -DRANKWISE_CUDA=ON
	cmake --build --preset release --target rankwise rankwise_cuda $(if $(findstring --tests,$(BUNDLE)),gpu_tests)
	tools/bundle.sh $(BUNDLE)

lint: setup ## formatting, scripts, include arrows
	tools/lint.sh

format: setup ## lay out C++ and Python sources
	tools/lint.sh --fix

coverage: setup ## line coverage of the rooms without a model
	tools/coverage.sh

clean: ## delete what was built; .venv, models and data stay
	rm -rf build
