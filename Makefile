# The commands of the README. Each installs what it needs, with locked versions, into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of PyTorch. On a CUDA machine: make install TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
GPU ?= -1
PIP := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt
# pip would compile every file of every package, on one core: longer than it takes to install them. What is left out
# here, of which most is never imported, is compiled when it is.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/|/testing/|/transformers/models/' $(VENV)/lib

.DEFAULT_GOAL := help
.PHONY: help install demo test torture lint coverage docs format bench leaderboard protocol clean

help: ## Say what each command does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/dev ## Make .venv with everything, locked versions; `make demo` needs less

# What training needs, and the extras with the tools of `make test` and `make lint`.
$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 1 --extra-index-url $(TORCH_INDEX) torch
	touch $@

$(VENV)/core: $(VENV)/torch setup.cfg setup.py pyproject.toml
	$(PIP) --editable .
	-$(COMPILE)
	touch $@

$(VENV)/dev: $(VENV)/torch setup.cfg setup.py pyproject.toml requirements-sharding.txt
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --requirement requirements-sharding.txt
	-$(COMPILE)
	touch $(VENV)/core $@

demo: $(VENV)/core ## Train QIN on synthetic data whose best AUC is known, and print its report
	$(BIN)/fxmm run --expid QIN_demo --gpu $(GPU)

test: install ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

torture: install ## Attack files, runs and settings at length: about an hour; docs/reliability.md says what each part does
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.torture --out results/torture.json

lint: install ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: install ## Run the tests and list the lines that they miss; htmlcov/index.html shows them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered --cov-report=html

docs: install ## Build the documentation site in build/site; `mkdocs serve` shows it while you write
	$(BIN)/python -m fuxictr_multimodal.config.reference > docs/settings.md
	$(BIN)/python -m fuxictr_multimodal.zoo.faults > docs/fuxictr_faults.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One slot a core: models this small train no faster on two. On a GPU machine: make leaderboard SLOTS="0 1 2 3"
SLOTS ?= -1 -1
leaderboard: install ## Repeat the comparisons of results/ (MovieLens must be built); resumes where it stopped
	$(BIN)/python run_comparison.py --config config/comparison/demo.yaml --gpu $(SLOTS)
	$(BIN)/python run_comparison.py --config config/comparison/MovieLens.yaml --gpu $(SLOTS)
	$(BIN)/python run_comparison.py --config config/comparison/ablations_MovieLens.yaml --gpu $(SLOTS)

protocol: install ## Repeat the long searches for every model (both MovieLens must be built): hours; resumes where it stopped
	$(BIN)/python run_comparison.py --config config/comparison/protocol_MovieLens.yaml --gpu $(SLOTS)
	$(BIN)/python run_comparison.py --config config/comparison/protocol_MovieLens_small.yaml --gpu $(SLOTS)
	$(BIN)/python run_comparison.py --config config/comparison/protocol_Synthetic_100k.yaml --gpu $(SLOTS)

SMALL := --batch-size 512 --items 5000 --embedding-dim 32
bench: install ## Run the benchmarks small; each prints one JSON object last
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/build_log.py --events 50000
	$(BIN)/python benchmarks/train_step.py $(SMALL) --loader-steps 20
	$(BIN)/python benchmarks/checks.py $(SMALL)
	$(BIN)/python benchmarks/score.py $(SMALL)
	$(BIN)/python benchmarks/serve.py --sizes movielens --rows 5000 --checked-rows 1000 --candidates 100 1000 --exports onnx onnx_int8 --seconds 1 --http-seconds 3
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/cooccurrence.py --users 20000 --items 10000
	$(BIN)/python benchmarks/metrics.py --rows 20000 --groups 1000
	$(BIN)/python benchmarks/startup.py --repeats 1
	$(BIN)/python benchmarks/zoo_models.py
	$(BIN)/python benchmarks/embedding_throughput.py --preset nano --texts 64

clean: ## Remove the virtual environment and caches; data and checkpoints stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .coverage* htmlcov *.egg-info
