# Every target does all of its own set-up. Variables: PYTHON (interpreter for the environment),
# VENV (its folder), DETECTRON2 (real, standalone, or unset: try the real one, then fall back).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The modules whose types mypy checks: pure functions, free of detectron2's classes.
TYPED := $(wildcard projects/roca_nocs/geometry projects/roca_nocs/layers projects/roca_nocs/data/synthetic)
# One thread a process: two test workers, or two training processes, share the machine.
export OMP_NUM_THREADS ?= 1

# make demo: where it trains, for how long, and where the results go.
DEMO_DEVICES ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo --num-gpus 1 || echo --num-gpus 0 --num-processes 2)
DEMO_ITERATIONS ?= 300
DEMO_OUTPUT ?= output/demo

.PHONY: env demo test test-all lint bench

env:
	@$(PYTHON) tools/make_env.py --venv $(VENV)

demo: env
	$(BIN)/python datasets/prepare_embedded.py --kind rooms --preset demo --workers 2
	$(BIN)/python tools/train_net.py --config-file configs/mask_rcnn/rooms_r18.py $(DEMO_DEVICES) --resume \
		train.output_dir=$(DEMO_OUTPUT) train.max_iter=$(DEMO_ITERATIONS)
	$(BIN)/python tools/demo.py --run $(DEMO_OUTPUT)

test: env
	$(BIN)/python -m pytest -n 2

test-all: env
	$(BIN)/python -m pytest -n 2 --run-slow

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)

bench: env
	$(BIN)/python benchmarks/run_all.py
