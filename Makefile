# Every target does its own set-up: `make demo` and `make test` work in a fresh clone.
# The virtual environment, and the stamps that say what is installed in it, live in .venv; `make clean` removes it.

VENV   := .venv
PY     := $(VENV)/bin/python
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
            $(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
# What `make demo` may be told, for example: make demo ARGS="--no-open"
ARGS   ?=
# One thread per process: the work is split by process, and figures do not depend on the number of cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-frameworks test-spark test-engines lint bench exam clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 24

demo: $(VENV)/.train  ## train a recommender on real data, look inside, write the report
	@env -u OMP_NUM_THREADS $(VENV)/bin/recspect demo $(ARGS)

test: lint  ## lint, types, import walls, then all tests but the slow ones
	@$(PY) -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

test-slow: $(VENV)/.test  ## simulations, whole runs on four public data sets, exhaustive comparisons
	@$(PY) -m pytest -n 2 --dist worksteal -m slow $(ARGS)

test-spark: $(VENV)/.test .venvs/pyspark/.ready  ## the same tally from PySpark as from everything else; needs Java
	@PYTHONPATH=.venvs/pyspark $(PY) -m pytest -q tests/test_same_tally.py -k pyspark

test-engines: $(VENV)/.test .venvs/pyspark/.ready .venvs/ray/.ready  ## the same totals from torchrun, a Ray cluster of two nodes and Spark; Spark needs Java
	@PYTHONPATH=.venvs/pyspark:.venvs/ray $(PY) -m pytest -q tests/test_runners_engines.py

# Frameworks whose dependencies cannot share one environment: each has its own under .venvs, with recspect in it.
FRAMEWORKS := torch-rechub recbole fuxictr keras-tensorflow

test-frameworks: $(FRAMEWORKS:%=.venvs/%/.ready)  ## models of RecBole, FuxiCTR, torch-rechub, TorchRec and Keras, each in its environment
	@.venvs/torch-rechub/bin/python -m pytest -q tests/frameworks/test_torch_rechub.py tests/frameworks/test_torchrec.py tests/frameworks/test_keras.py \
	  tests/frameworks/test_onnx.py tests/frameworks/test_keras_watching.py
	@.venvs/recbole/bin/python -m pytest -q tests/frameworks/test_recbole.py
	@.venvs/fuxictr/bin/python -m pytest -q tests/frameworks/test_fuxictr.py
	@KERAS_BACKEND=tensorflow .venvs/keras-tensorflow/bin/python -m pytest -q tests/frameworks/test_keras_tensorflow.py tests/frameworks/test_keras_watching.py

lint: $(VENV)/.test  ## ruff, mypy on the engine, import walls
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

bench: $(VENV)/.bench $(if $(filter tables correctness,$(NAME)),.venvs/evidently/.ready) $(if $(filter training_peers,$(NAME)),.venvs/recbole/.ready) $(if $(filter slices,$(NAME)),.venvs/sliceline/.ready)  ## measure us against a peer: make bench NAME=ig
	@$(PY) bench/run.py $(NAME)

exam: $(VENV)/.test  ## judge the judges: planted faults found, causes named, false alarms; make exam ARGS="--programs all --seeds 5"
	@$(VENV)/bin/recspect exam $(ARGS)

clean:  ## remove the virtual environment and what the tools left
	rm -rf $(VENV) .venvs .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache dist

# ------------------------------------------------------------------ set-up

$(PY):
	@test -n "$(PYTHON)" || { echo "recspect needs Python 3.11 or newer; none was found on PATH." \
	  "Install one, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"recspect needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}")'
	$(PYTHON) -m venv $(VENV)

# A stamp is older than what it was made from when that changes; then pip is asked again.
install = $(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off -c constraints.txt -e ".[$(1)]"

# The server that the tests of the Visdom sink run against: a source distribution that is built with an older setuptools.
visdom = echo 'setuptools<80' > $(VENV)/build.txt && PIP_CONSTRAINT=$(CURDIR)/$(VENV)/build.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/$(VENV)/build.txt \
  $(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off -c constraints.txt visdom

$(VENV)/.train: pyproject.toml constraints.txt | $(PY)
	@echo "Installing recspect with PyTorch into $(VENV); the first time takes a few minutes."
	@$(call install,train)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(PY)
	@echo "Installing recspect with PyTorch and the test tools into $(VENV); the first time takes a few minutes."
	@$(call install,train$(comma)test$(comma)lint$(comma)tensorboard$(comma)wandb$(comma)mlflow$(comma)postgres$(comma)serve$(comma)broker$(comma)index$(comma)onnx$(comma)processes$(comma)storage$(comma)delta$(comma)iceberg$(comma)warehouse$(comma)tune)
	@$(visdom) || echo "Visdom could not be built here: the tests that need its server are skipped."
	@touch $@ $(VENV)/.train

.venvs/pyspark/.ready: | $(PY)
	@$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off --target .venvs/pyspark pyspark==4.3.0
	@touch $@

# What else Ray needs is in the environment already.
.venvs/ray/.ready: | $(PY)
	@$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off --no-deps --target .venvs/ray ray==2.60.0 msgpack==1.2.4
	@touch $@

# Its pandas is older than ours, so it is only on the path of the process that the bench measures it in.
.venvs/evidently/.ready: | $(PY)
	@$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off --target .venvs/evidently evidently==0.7.23 'pandas<3'
	@touch $@

.venvs/sliceline/.ready: | $(PY)
	@$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar off --target .venvs/sliceline sliceline==0.3.0 numba==0.68.1
	@touch $@

.venvs/%/.ready: tests/frameworks/%.txt pyproject.toml
	@echo "Building an environment with $* in .venvs/$*; this takes some minutes."
	@test -x .venvs/$*/bin/python || $(PYTHON) -m venv .venvs/$*
	@.venvs/$*/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar off torch==2.13.0 -r $<
	@if [ -f tests/frameworks/$*-bare.txt ]; then .venvs/$*/bin/python -m pip install --disable-pip-version-check --quiet \
	  --progress-bar off --no-deps -r tests/frameworks/$*-bare.txt; fi
	@.venvs/$*/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar off -r tests/frameworks/with-recspect.txt
	@.venvs/$*/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar off --no-deps -e .
	@touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(PY)
	@echo "Installing recspect and what it is measured against into $(VENV)."
	@$(call install,train$(comma)bench)
	@touch $@ $(VENV)/.train

comma := ,
