# Every target makes its environment itself; `make PYTHON=python3.12 test` takes another Python.
PYTHON ?= python3
NAME ?= course
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
OLD_TRL := .venv-trl-0.11.4

export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: course test lab notebooks figures mutation oracle-ppo

course: $(READY)  ## the whole pipeline; run again, it goes on with the same run
	$(BIN)/week6 run --name $(NAME) $(if $(wildcard runs/$(NAME)/config.json),--resume)
	@echo "report: runs/$(NAME)/report.md    plots: runs/$(NAME)/plots/"

# One thread a process, as many processes as workers.
test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal --cov --durations=10
	$(BIN)/python -m tests.mutation.run --workers $(WORKERS)

mutation: $(READY)
	$(BIN)/python -m tests.mutation.run --workers $(WORKERS)

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=.

notebooks: $(READY)
	$(BIN)/python tools/build_notebooks.py

figures: $(READY)
	$(BIN)/python tools/figures.py

# The last TRL whose PPO can be called piece by piece, in an environment of its own; writes tests/oracle/trl_0_11_4.json.
oracle-ppo: $(OLD_TRL)/.ready
	$(OLD_TRL)/bin/python tools/trl_ppo_oracle.py tests/oracle/trl_0_11_4.json

$(READY): pyproject.toml tools/setup_env.py
	$(PYTHON) tools/setup_env.py .venv -e ".[dev]"
	touch $@

$(OLD_TRL)/.ready: tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(OLD_TRL) trl==0.11.4 transformers==4.45.2 rich
	touch $@
