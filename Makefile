# Every target makes its environment itself; `make PYTHON=python3.12 test` takes another Python. Where the checkout cannot
# be written to: `make course VENV=FOLDER RUNS=FOLDER`.
PYTHON ?= python3
WORKERS ?= 2
VENV = .venv
RUNS = runs
NAME = course
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLD_TRL := .venv-trl-0.11.4
PPO_TRL := .venv-trl-1.12.0
COLAB := .venv-colab
OLDEST := .venv-oldest
SITE := .venv-site
WITHOUT_TRL := $(addprefix --ignore=tests/,oracle/test_trl.py classroom/test_handover.py test_bench.py)
# The first trains what 05 to 08 share: two at once, and one would wait for the other. Then those that take longest.
FIRST := $(wildcard solutions/08_*.ipynb $(foreach n,02 00,solutions/$(n)_*.ipynb notebooks/$(n)_*.ipynb) \
	$(foreach n,09 05 07,solutions/$(n)_*.ipynb notebooks/$(n)_*.ipynb) notebooks/08_*.ipynb \
	$(foreach n,06 10 04,solutions/$(n)_*.ipynb notebooks/$(n)_*.ipynb))
NOTEBOOKS := $(FIRST) $(filter-out $(FIRST),$(wildcard solutions/*.ipynb notebooks/*.ipynb))
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval_sanitize.cfg -n $(WORKERS) \
	--dist loadfile --no-loadscope-reorder -q $(NOTEBOOKS)

export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: course test lab notebooks nbval coverage colab-stack oldest figures mutation mutants accepted capstones bench oracle-ppo kill site check-site slides check-slides grade-trial

# Run again, it goes on with the same run; `make course NAME="my run"` starts another. What a name holds, the shell reads
# as it is.
course: export COURSE_NAME = $(NAME)
course: export COURSE_RUNS = $(RUNS)
course: $(READY)
	@set --; if [ -e "$$COURSE_RUNS/$$COURSE_NAME/config.json" ]; then set -- --resume; fi; \
	$(BIN)/python -m week6 run --preset tiny --runs-dir="$$COURSE_RUNS" --name="$$COURSE_NAME" "$$@"

# One thread a process, as many processes as workers.
test: export OMP_NUM_THREADS = 1
test: $(READY) nbval
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy & types=$$!; $(BIN)/pytest -q -n $(WORKERS) --durations=10 && wait $$types
	$(BIN)/python -m tests.mutation.run --workers $(WORKERS)

# Which lines the tests run: a quarter slower than without.
coverage: export OMP_NUM_THREADS = 1
coverage: $(READY)
	$(BIN)/pytest -q -n $(WORKERS) --cov

mutation: $(READY)
	$(BIN)/python -m tests.mutation.run --workers $(WORKERS)

# Random small changes of the code that a test should notice: an hour or two, and so not part of `make test`.
mutants: $(READY)
	$(BIN)/python -m tests.mutation.changes --workers $(WORKERS)

# A small run killed a hundred times at random moments, and a hundred exact ends; then every file of a run damaged in
# turn. Half an hour.
kill: $(READY)
	$(BIN)/python -m tools.kill --damage

# Every cell of the notebooks with every answer that their graders accept: a quarter of an hour.
accepted: export OMP_NUM_THREADS = 1
accepted: $(READY)
	$(BIN)/python -m tests.checks.accepted

# Every capstone on twenty problems that no verdict shows: what is right passes all, each mistake fails on all.
capstones: $(READY)
	for number in $$(ls tests/checks/capstones | sed -n 's/^nb\(..\).py$$/\1/p'); do \
		$(BIN)/python -m tests.checks.capstones $$number || exit 1; done

# More than 60 submissions, of which 16 or more are hostile, graded as a class is; then each verdict is held to the notebook's own.
grade-trial: export OMP_NUM_THREADS = 1
grade-trial: $(READY)
	$(BIN)/python tools/grade_trial.py --workers $(WORKERS)

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=.

notebooks: $(READY)
	$(BIN)/python tools/build_notebooks.py

# Every notebook runs. The student edition is as it is handed out; the solutions also print what is stored in them.
nbval: export OMP_NUM_THREADS = 1
nbval: export PYTHONHASHSEED = 0
nbval: $(READY)
	$(BIN)/python tools/build_notebooks.py --check
	$(BIN)/pytest $(NBVAL)

# The same, and the tests, on the Jupyter packages of Google Colab, which are older.
colab-stack: export OMP_NUM_THREADS = 1
colab-stack: export PYTHONHASHSEED = 0
colab-stack: $(COLAB)/.ready
	$(COLAB)/bin/pytest $(NBVAL)
	$(COLAB)/bin/pytest -q -n $(WORKERS) $(WITHOUT_TRL)

# The tests on the lowest versions that pyproject.toml allows. TRL needs higher ones.
oldest: export OMP_NUM_THREADS = 1
oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/pytest -q -n $(WORKERS) $(WITHOUT_TRL)

figures: $(READY)
	$(BIN)/python -m week6.pictures.figures

# The web edition, in build/site/html: a minute or two, and npm for MathJax.
site: export HF_HUB_OFFLINE = 1
site: $(SITE)/.ready
	$(SITE)/bin/python tools/build_site.py build/site

# Each of its pages in Chromium, as on a telephone.
check-site:
	npm install --no-audit --no-fund --ignore-scripts --prefix build/npm playwright-core axe-core
	node tools/check_site.mjs build/site/html

# The decks of docs/slides, in build/slides: HTML, and PDF where there is a Chromium.
slides: $(SITE)/.ready
	$(SITE)/bin/python tools/build_slides.py build/slides

# Does each slide fit?
check-slides:
	npm install --no-audit --no-fund --ignore-scripts --prefix build/npm playwright-core
	node tools/check_slides.mjs build/slides

# Speed and memory beside TRL and transformers (docs/speed.md), on a machine that has nothing else to do. What
# build/bench.json has is not measured again: BENCH="dpo sampling-gpt2 --again" measures these anew. With LENGTHS, a file
# of conversations, also DPO on rows as long as theirs.
bench: $(READY) $(PPO_TRL)/.ready
	$(BIN)/python -m tools.bench $(BENCH) --ppo-python "$(CURDIR)/$(PPO_TRL)/bin/python" $(if $(LENGTHS),--lengths "$(LENGTHS)")

# The last TRL whose PPO can be called piece by piece, in an environment of its own; writes tests/oracle/trl_0_11_4.json.
oracle-ppo: $(OLD_TRL)/.ready
	$(OLD_TRL)/bin/python tools/trl_ppo_oracle.py tests/oracle/trl_0_11_4.json

$(READY): pyproject.toml tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(VENV) -e ".[dev]"
	touch $@

$(OLD_TRL)/.ready: tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(OLD_TRL) trl==0.11.4 transformers==4.45.2 rich
	touch $@

$(PPO_TRL)/.ready: tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(PPO_TRL) trl==1.12.0
	touch $@

$(COLAB)/.ready: pyproject.toml tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(COLAB) -e ".[test]" ipywidgets==7.7.1 ipython==7.34.0 'ipykernel==6.17.*' \
		'transformers==5.15.*' 'datasets==4.0.*' 'matplotlib==3.10.*' 'numpy==2.1.*'
	touch $@

$(SITE)/.ready: pyproject.toml tools/setup_env.py
	$(PYTHON) tools/setup_env.py $(SITE) -e ".[site]"
	touch $@

$(OLDEST)/.ready: pyproject.toml tools/setup_env.py tools/floors.py
	floors=$$($(PYTHON) tools/floors.py) && $(PYTHON) tools/setup_env.py $(OLDEST) -e ".[test]" $$floors
	touch $@
