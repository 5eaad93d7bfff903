# Every target makes its environment itself; `make PYTHON=python3.12 test` takes another Python.
PYTHON ?= python3
NAME ?= course
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
OLD_TRL := .venv-trl-0.11.4
COLAB := .venv-colab
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval_sanitize.cfg -n $(WORKERS) --dist loadfile -q

export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: course test lab notebooks nbval colab-stack figures mutation bench oracle-ppo

# Run again, it goes on with the same run; `make course NAME=other` starts another.
course: $(READY)
	$(BIN)/week6 run --name $(NAME) $(if $(wildcard runs/$(NAME)/config.json),--resume)

# One thread a process, as many processes as workers.
test: export OMP_NUM_THREADS = 1
test: $(READY) nbval
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -q -n $(WORKERS) --cov --durations=10
	$(BIN)/python -m tests.mutation.run --workers $(WORKERS)

mutation: $(READY)
	$(BIN)/python -m tests.mutation.run --workers $(WORKERS)

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=.

notebooks: $(READY)
	$(BIN)/python tools/build_notebooks.py

# Every notebook runs. The student edition is as it is handed out; the solutions also print what is stored in them.
nbval: export OMP_NUM_THREADS = 1
nbval: export PYTHONHASHSEED = 0
nbval: $(READY)
	$(BIN)/python tools/build_notebooks.py --check
	$(BIN)/pytest $(NBVAL) notebooks
	WEEK6_STRICT=1 $(BIN)/pytest $(NBVAL) solutions

# The same on the Jupyter packages of Google Colab, which are older.
colab-stack: export OMP_NUM_THREADS = 1
colab-stack: export PYTHONHASHSEED = 0
colab-stack: $(COLAB)/.ready
	$(COLAB)/bin/pytest $(NBVAL) notebooks
	WEEK6_STRICT=1 $(COLAB)/bin/pytest $(NBVAL) solutions

figures: $(READY)
	$(BIN)/python -m week6.pictures.figures

# A quarter of an hour on two cores that have nothing else to do.
bench: $(READY)
	$(BIN)/python tools/bench_dpo.py

# The last TRL whose PPO can be called piece by piece, in an environment of its own; writes tests/oracle/trl_0_11_4.json.
oracle-ppo: $(OLD_TRL)/.ready
	$(OLD_TRL)/bin/python tools/trl_ppo_oracle.py tests/oracle/trl_0_11_4.json

$(READY): pyproject.toml tools/setup_env.py
	$(PYTHON) tools/setup_env.py .venv -e ".[dev]"
	touch $@

$(OLD_TRL)/.ready: tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(OLD_TRL) trl==0.11.4 transformers==4.45.2 rich
	touch $@

$(COLAB)/.ready: pyproject.toml tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(COLAB) -e . ipywidgets==7.7.1 ipython==7.34.0 'ipykernel==6.17.*' \
		'transformers==5.15.*' 'datasets==4.0.*' 'matplotlib==3.10.*' 'numpy==2.1.*' nbval pytest-xdist hypothesis
	touch $@
