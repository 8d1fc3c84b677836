# Every target does all of its own set-up. Variables: PYTHON (interpreter for the environment),
# VENV (its folder), DETECTRON2 (real, standalone, or unset: try the real one, then fall back).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The modules whose types mypy checks: pure functions, free of detectron2's classes.
TYPED := $(addprefix projects/roca_nocs/,geometry layers losses.py data/synthetic)
# One thread a process: two test workers, or two training processes, share the machine.
export OMP_NUM_THREADS ?= 1

# make demo: where it trains, for how long, where the results go, what they are compared with.
DEMO_DEVICES ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo --num-gpus 1 || echo --num-gpus 0 --num-processes 2)
DEMO_ITERATIONS ?= 340
DEMO_OUTPUT ?= output/demo
DEMO_CONFIG := configs/roca/rooms_r18_demo.py
DEMO_WEIGHTS := models/roca_rooms_r18.safetensors

.PHONY: env demo test test-all lint bench

env:
	@$(PYTHON) tools/make_env.py --venv $(VENV)

demo: env
	$(BIN)/python datasets/prepare_embedded.py --kind rooms --preset demo --workers 2
	$(BIN)/python tools/train_net.py --config-file $(DEMO_CONFIG) $(DEMO_DEVICES) --resume \
		train.output_dir=$(DEMO_OUTPUT)/short train.max_iter=$(DEMO_ITERATIONS)
	$(BIN)/python tools/demo.py --run $(DEMO_OUTPUT)/short --count 4
	$(BIN)/python tools/train_net.py --config-file $(DEMO_CONFIG) $(DEMO_DEVICES) --eval-only \
		train.output_dir=$(DEMO_OUTPUT)/shipped train.init_checkpoint=$(DEMO_WEIGHTS)
	$(BIN)/python tools/demo.py --config-file $(DEMO_CONFIG) --weights $(DEMO_WEIGHTS) --count 4 \
		--output $(DEMO_OUTPUT)/shipped/demo
	@echo "Pictures of the shipped weights: $(DEMO_OUTPUT)/shipped/demo/index.html"
	$(BIN)/python tools/compare_results.py "$(DEMO_ITERATIONS) iterations=$(DEMO_OUTPUT)/short/results.json" \
		"shipped weights=$(DEMO_OUTPUT)/shipped/results.json"
	@echo "Pictures of the short training: $(DEMO_OUTPUT)/short/demo/index.html"

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
