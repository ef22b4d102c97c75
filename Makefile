# make train   the demonstration: sparse agents against dense ones, with a picture at the end
# make test    lint, types and tests, as continuous integration runs them
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A failed or interrupted installation leaves no stamp behind and is repeated.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A CUDA build of torch brings its own Triton. Without one, this one's interpreter tests the kernels.
TRITON := triton==3.9.0
HAS_CUDA := $(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)'
DEMONSTRATION := --policy ANF-SAC SAC --env HalfCheetah-v3 --fake_features 0.95 --num_seeds 2 \
	--max_timesteps 15000 --eval_freq 2500 --eval_episodes 5
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard fastanf/kernels/native/*.cpp fastanf/kernels/native/*.h)

.PHONY: train test lint clean

train: $(VENV)/.installed
	$(BIN)/python train.py $(DEMONSTRATION)

# A process per core, each with one thread: threads of two processes would wait for each other.
test: lint
	OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	$(HAS_CUDA) || $(INSTALL) $(TRITON)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info fastanf/kernels/native/*.so
