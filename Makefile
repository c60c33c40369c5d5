# `make train`: set up and train the demo. `make test`: set up and run the default tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# What pip would do on one core, for over a minute with all extras, but for the packages' own tests, a fifth of it; a file
# or two are templates, in no Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true
EXTRAS := minari,wandb,tensorboard,video,sb3,atari,dm-control,robotics,ray,onnx,hub,warp,benchmarks,docs,dev
SOURCES := agents envs evaluation offline_data training configs

.PHONY: train test test-slow test-gpu campaign mutants lint format typecheck docs clean

train: $(VENV)/.core
	$(BIN)/python train.py h2o --preset demo

# Tests start many processes of ours: these read compiled modules, also where the shell asks for none to be written.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow --timeout 3600

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m gpu

# The commands of docs/reliability.md, small; each alone does more.
campaign: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m campaign --timeout 3600

# make mutants MODULE=agents/sac.py: which small changes of a file, or of a folder, its tests notice.
mutants: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py $(MODULE)

lint: $(VENV)/.dev typecheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy finds no sub-packages through an editable install; it reads them through links under one parent.
typecheck: $(VENV)/.dev
	mkdir -p build/typing/surefoot
	for file in api/*.py api/py.typed; do ln -sfn ../../../$$file build/typing/surefoot/$$(basename $$file); done
	for package in $(SOURCES); do ln -sfn ../../../$$package build/typing/surefoot/$$package; done
	cd build/typing && ../../$(BIN)/mypy --config-file ../../pyproject.toml

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'Open build/site/index.html'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Surefoot needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	$(COMPILE)
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[$(EXTRAS)]'
	$(COMPILE)
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
