# Everything is a variable on the command line: make train TASK=1 EPOCHS=3. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
CUDA ?= 13
OTHER_CUDA = $(if $(filter 12,$(CUDA)),13,12)

# A variable in one of these lists is passed on as --its-name.
LABEL_WORDS = LABELS LABELS_FORMAT TAGS_SEPARATOR NAME_COLUMN TAGS_COLUMN CSV_SEPARATOR
ZARR_WORDS = DATA $(LABEL_WORDS) PRESET BANDS CLASSES CODEC AXES JOBS
TRAIN_WORDS = TASK GPU RUN RESUME RECIPE ARCH WEIGHTS CONV1 FINETUNE INPUT SPLIT VAL SEED TEST CROP FLIPS AMP COMPILE \
	EPOCHS BATCH ACCUMULATE LR LOSS SET WORKERS CACHE DECODE CHECKPOINT_MINUTES TRACKER
TRAIN_VARIABLES = $(TRAIN_WORDS) DETERMINISTIC SHUFFLE_LABELS
ANALYSIS_VARIABLES = COMPARE CLASS OUT TTA JPEG EXCLUSIVE
KNOWN = PYTHON VENV CUDA ARGS MODE ROUNDS ROWS KILLS SECONDS COUNT ONLY CASE STORE ALLOW_MISSING $(ZARR_WORDS) \
	$(TRAIN_VARIABLES) $(ANALYSIS_VARIABLES)

# A misspelt variable would be ignored without a word: make train EPOCH=3.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command line,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(KNOWN) MAKEFLAGS MAKEOVERRIDES -*-command-variables-*- line,$(GIVEN))
ifneq ($(strip $(UNKNOWN)),)
$(error $(strip $(UNKNOWN)) is not a variable here. `make help` lists them)
endif

# The text of a variable is data. Make would expand it again where it is used ($(shell ...) in a name), and a shell would
# read its quotes. So it is kept as it was typed and exported, and recipes name it as "$$NAME", whose text no shell reads.
$(foreach name,$(sort $(KNOWN)),$(if $(filter-out undefined,$(origin $(name))),$(eval override $(name) := $$(value $(name)))$(eval export $(name))))

# $(call one_of,A B,TEXT): the text, if it is one of the words.
one_of = $(and $(filter 1,$(words $(2))),$(filter $(1),$(2)))
$(if $(call one_of,12 13,$(CUDA)),,$(error CUDA=$(CUDA): expected 12 or 13))

# A switch is 1, 0 or empty: SWITCH=no would otherwise be taken for yes.
$(foreach name,ALLOW_MISSING DETERMINISTIC SHUFFLE_LABELS TTA,$(if $($(name)),$(if $(call one_of,0 1,$($(name))),,$(error $(name)=$($(name)): expected 0 or 1))))

# Settings of the conversion mean nothing to a training that converts nothing.
UNUSED := $(if $(filter train,$(MAKECMDGOALS)),$(if $(DATA),,$(filter $(filter-out DATA JOBS,$(ZARR_WORDS)) ALLOW_MISSING,$(GIVEN))))
$(if $(strip $(UNUSED)),$(error $(strip $(UNUSED)): only with DATA=folder, which is converted first))
$(if $(filter STORE,$(GIVEN)),$(if $(STORE),,$(error STORE is given, but empty)))

# What a target cannot do without is asked for before anything is installed.
needs = $(if $(filter $(1),$(MAKECMDGOALS)),$(if $($(2)),,$(error $(2) is not set: make $(firstword $(filter $(1),$(MAKECMDGOALS))) $(3))))
$(if $(RESUME),,$(call needs,train,TASK,TASK=1 (or 3, 4)))
$(call needs,zarr,DATA,DATA=folder LABELS=file.csv STORE=chips.zarr)
$(call needs,verify info tune audit,STORE,STORE=chips.zarr)
$(call needs,reproduce curves report export,RUN,RUN=runs/task1)
$(call needs,predict,RUN,RUN=runs/task1 DATA=folder)
$(call needs,predict,DATA,RUN=runs/task1 DATA=folder)

# $(call option,NAME): --name="$NAME" if the variable is set. $(call switch,NAME): --name if it is 1.
FLAGS := $(join $(addsuffix =--,$(sort $(KNOWN))),$(shell echo '$(sort $(KNOWN))' | tr A-Z_ a-z-))
flag = $(patsubst $(1)=%,%,$(filter $(1)=%,$(FLAGS)))
option = $(if $($(1)),$(call flag,$(1))="$$$(1)")
switch = $(if $(filter 1,$($(1))),$(call flag,$(1)))
options = $(foreach name,$(1),$(call option,$(name)))

MODULE = "$$VENV/bin/python" -m
TRAIN_OPTIONS = $(call options,STORE $(TRAIN_WORDS)) $(call switch,DETERMINISTIC) $(call switch,SHUFFLE_LABELS)

.PHONY: help ready setup demo zarr verify info train reproduce curves report audit predict export bench bench-report tune \
	gpu-check test soak fuzz lint format clean
.DEFAULT_GOAL := help

help:
	@echo 'canopy: multi-label classification of multispectral satellite chips'
	@echo
	@echo 'make train TASK=1                 demo chips -> store -> a trained model (installs what it needs first)'
	@echo 'make train TASK=1 STORE=x.zarr    train on a store; with DATA=... it is converted first'
	@echo 'make zarr DATA=dir LABELS=x.csv STORE=x.zarr    convert a folder of TIFFs and a CSV of tags'
	@echo 'make train RESUME=runs/task1      go on with a run that was stopped or killed, to the bit as if it had not been'
	@echo 'make reproduce RUN=runs/task1     predict the test split again in a new process and compare'
	@echo 'make curves RUN=runs/task1        draw the learning curve again'
	@echo 'make report RUN=runs/task1        one page about a run: COMPARE=runs/task3,runs/task4  CLASS=road  STORE=moved.zarr'
	@echo 'make predict RUN=runs/task1 DATA=dir    score TIFFs without labels: OUT=predictions.csv  TTA=1  BANDS=...'
	@echo 'make export RUN=runs/task1        ONNX and torch.export, raw chips in, checked against torch'
	@echo 'make audit STORE=x.zarr           what is odd: duplicates, neighbours across the split, tags; LABELS=x.csv'
	@echo '                                  JPEG=dir  RUN=runs/task1 (labels it doubts)  SPLIT=...  EXCLUSIVE=a,b,c'
	@echo 'make verify STORE=x.zarr          re-read a store and prove it whole'
	@echo 'make info STORE=x.zarr            bands, classes, sizes; SPLIT=... for another split'
	@echo 'make bench MODE=loader            against others and the limits of this machine (ROUNDS=5; STORE=x.zarr: your own)'
	@echo '           MODE=peers|io|convert|model|e2e|scale; peers installs other loaders into .venv-peers (1.3 GB)'
	@echo 'make bench-report                 draw the newest records'
	@echo 'make tune STORE=x.zarr            which loader settings are fastest here; make train then uses them (GPU=0)'
	@echo 'make gpu-check                    is the GPU path right on this machine, and does the GPU wait?'
	@echo 'make soak KILLS=200               kill a run that often, at random moments, and prove that nothing was lost'
	@echo 'make fuzz SECONDS=60              damage stores, TIFFs, CSVs and runs: each is refused or reads the same (ONLY=tiffs  SEED=1'
	@echo '                                  COUNT=cases  CASE=one again)'
	@echo 'make test | lint | setup          the tests; format, types, imports; only the installation'
	@echo
	@echo 'zarr:   DATA LABELS STORE  PRESET=planet  BANDS=blue,green,red,nir  CLASSES=a,b,c  CODEC=lz4|none'
	@echo '        AXES=YXS|SYX (order of the stored dimensions)  JOBS=cores  ALLOW_MISSING=1'
	@echo '        what the CSV looks like: LABELS_FORMAT=tags|list|onehot|long  CSV_SEPARATOR=tab'
	@echo '        TAGS_SEPARATOR=, (or ; | with quotes)  NAME_COLUMN=image_name  TAGS_COLUMN=tags'
	@echo 'train:  TASK=1 (RGB) | 3 (RGB and NIR, two nets joined) | 4 (RGB + NIR in one net)  GPU=0|0,1,2,3|auto|cpu'
	@echo '        RECIPE=default|course|best  EPOCHS BATCH LR SEED  RUN=runs/name  FINETUNE=full|head  SET="ema=0.999 ..."'
	@echo '        ARCH=resnet18|resnet34|resnet50|resnet101|resnet152|resnext50_32x4d|wide_resnet50_2'
	@echo '        WEIGHTS=imagenet|none|file.safetensors  CONV1=kaiming|mean|copy-red (filters of new bands)'
	@echo '        INPUT=raw|course  TEST=center|resize  CROP=pixels'
	@echo '        SPLIT=course | blocked (after make audit) | 0.8,0.2 | 0.7,0.1,0.2@seed | file.csv (image_name,part)  VAL=0.1 (chooses the epoch)'
	@echo '        FLIPS=none|horizontal|both|dihedral  AMP=auto|off|bf16|fp16  LOSS=bce|soft_margin|asymmetric'
	@echo '        WORKERS=threads  ACCUMULATE=parts  COMPILE=off|default|max  CHECKPOINT_MINUTES=10  DETERMINISTIC=1'
	@echo '        CACHE=none|host|device (the decoded store, kept)  DECODE=auto|host|device (where LZ4 is undone)'
	@echo '        TRACKER=none|wandb (offline, beside TensorBoard)  SHUFFLE_LABELS=1 (a control)'
	@echo 'all:    VENV=.venv  PYTHON=python3  CUDA=13|12 (of the GPU driver)'

# One stamp a CUDA major; a changed pyproject.toml or constraints.txt installs again, nothing else does. (No file target:
# Make cannot have spaces, `%` or `:` in the name of one, VENV can.)
ready:
	@stamp="$$VENV/.canopy-cuda$(CUDA)"; \
	if test -e "$$stamp" && test -z "$$(find pyproject.toml constraints.txt -newer "$$stamp")"; then exit 0; fi; \
	set -e; \
	"$$PYTHON" -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"error: python >= 3.11 is needed, {sys.executable} is {v[0]}.{v[1]}. PYTHON=python3.11 chooses another.")'; \
	test -x "$$VENV/bin/python" || "$$PYTHON" -m venv -- "$$VENV" || { \
		echo 'error: no virtual environment could be made (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 2; }; \
	printf 'installing into %s: about 7 GB the first time\n' "$$VENV"; \
	rm -f -- "$$VENV"/.canopy-cuda*; \
	if "$$VENV/bin/python" -m pip show --quiet nvidia-dali-cuda$(OTHER_CUDA)0 2>/dev/null; then \
		"$$VENV/bin/python" -m pip uninstall --yes nvidia-dali-cuda$(OTHER_CUDA)0; fi; \
	"$$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt -e '.[cuda$(CUDA),dev]'; \
	touch -- "$$stamp"

setup: ready

zarr: ready
	@$(MODULE) preprocess convert $(call options,$(ZARR_WORDS)) $(call switch,ALLOW_MISSING) --store="$${STORE:-chips.zarr}"

demo: ready
	@echo 'no STORE and no DATA are given: the demo chips are used'
	@$(MODULE) preprocess demo --out demo
	@$(MODULE) preprocess convert --data demo/tif --labels demo/labels.csv --bands blue,green,red,nir --store demo/chips.zarr

# Without STORE and DATA: the demo chips, from scratch, so that the numbers are the same with and without a network.
# With RESUME: what the run says.
ifneq ($(RESUME),)
else ifeq ($(STORE)$(DATA),)
train: export override STORE := demo/chips.zarr
train: export EPOCHS ?= 8
train: export WEIGHTS ?= none
train: $(if $(filter 2,$(TASK)),,demo)
else ifneq ($(DATA),)
train: export override STORE := $(or $(STORE),chips.zarr)
train: zarr
endif
train: ready
	@file=$$(mktemp) && trap 'rm -f "$$file"' EXIT && \
	$(MODULE) train $(TRAIN_OPTIONS) --run-file "$$file" && \
	if test -s "$$file"; then $(MODULE) analysis curves --run "$$(cat "$$file")"; fi

verify info: ready
	@$(MODULE) preprocess $@ $(call option,STORE) $(if $(filter info,$@),$(call option,SPLIT),$(call option,JOBS))

reproduce curves: ready
	@$(MODULE) analysis $@ $(call option,RUN) $(if $(filter reproduce,$@),$(call options,STORE GPU))

report: ready
	@$(MODULE) analysis report $(call options,RUN COMPARE CLASS STORE)

audit: ready
	@$(MODULE) analysis audit $(call options,STORE LABELS JPEG RUN SPLIT EXCLUSIVE)

predict: ready
	@$(MODULE) analysis predict $(call options,RUN DATA OUT BANDS GPU) $(call switch,TTA)

export: ready
	@$(MODULE) analysis export $(call options,RUN STORE)

bench: ready
	@$(if $(call one_of,peers,$(MODE)),$(MODULE) bench.environments)
	@$(MODULE) bench $(call options,MODE ROUNDS ROWS STORE)

bench-report: ready
	@$(MODULE) bench.report

tune: ready
	@$(MODULE) train.tune $(call options,STORE GPU BATCH)

gpu-check: ready
	@$(MODULE) bench.gpu_check

test: ready
	@"$$VENV/bin/python" -c 'import os, shlex, sys; os.execv(sys.executable, [sys.executable, "-m", "pytest", *shlex.split(os.environ.get("ARGS", ""))])'

soak: ready
	@"$$VENV/bin/python" tests/soak.py --kills="$${KILLS:-200}"

fuzz: ready
	@PYTHONPATH=.:tests $(MODULE) fuzz $(call options,SECONDS SEED ONLY COUNT CASE JOBS)

lint: ready
	@"$$VENV/bin/ruff" format --check . && "$$VENV/bin/ruff" check . && "$$VENV/bin/mypy" && "$$VENV/bin/lint-imports"

format: ready
	@"$$VENV/bin/ruff" format . && "$$VENV/bin/ruff" check --fix .

clean:
	rm -rf demo fuzz-cases .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
