# Settings are words on the command line: make train TASK=1 EPOCHS=3. `make help` lists the commands, and
# `make help COMMAND=train` the settings of one. This file knows no setting: canopy/launch.py takes every word as it was
# typed, checks it, installs what is missing and runs the command. Every failure is exit code 2 here, because make has
# exit codes of its own; `python -m canopy COMMAND ...` ends with the command's own code.

PYTHON ?= python3
VENV ?= .venv
CUDA ?= 13
ARGS ?=# arguments for pytest: make test ARGS='-m slow'

COMMANDS = train zarr windows audit preview info verify report curves reproduce ensemble compare predict export tune \
	bench bench-report gpu-check demo soak fuzz

# The settings are what the user wrote on the command line, and not what the environment holds (DATA=..., CROP=...).
OURS = PYTHON VENV CUDA ARGS
TYPED := $(sort $(foreach name,$(.VARIABLES),$(if $(filter command line,$(origin $(name))),$(name))))
SETTINGS := $(filter-out $(OURS) MAKEFLAGS MAKEOVERRIDES -*-command-variables-*-,$(TYPED))
# Names of commands and settings are read by make and by a shell. These characters mean something to one of them.
SPECIAL := " ' ` \ ( ) { } $$ \# : ; & | < >
ODD := $(foreach c,$(SPECIAL),$(findstring $c,$(SETTINGS) $(MAKECMDGOALS)))
$(if $(strip $(ODD)),$(error expected COMMAND NAME=value, with nothing but letters, digits, _ and - in COMMAND and NAME))

# The text of a setting is data. Make would expand it again where it is used ($(shell ...) in a name), and a shell would
# read its quotes. So each setting keeps the typed text and is exported. Recipes use it as "$$NAME"; a shell does not parse
# the text of a variable again.
$(foreach name,$(sort $(OURS) $(SETTINGS)),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))

WORDS := $(foreach name,$(SETTINGS),"$(name)=$$$(name)")
# The environment's own Python runs the script, if it is there; PYTHON only makes the environment.
LAUNCH = @python="$$VENV/bin/python"; test -x "$$python" || python="$$PYTHON"; \
	"$$python" canopy/launch.py "$$VENV" "$$CUDA"

.PHONY: help setup test lint format docs clean $(COMMANDS)
.DEFAULT_GOAL := help

help setup test $(COMMANDS):
	$(LAUNCH) "$@" $(WORDS)

.DEFAULT: # a misspelt command
	$(LAUNCH) "$@" $(WORDS)

lint: setup
	@"$$VENV/bin/ruff" format --check . && "$$VENV/bin/ruff" check . && "$$VENV/bin/mypy" && "$$VENV/bin/lint-imports"

format: setup
	@"$$VENV/bin/ruff" format . && "$$VENV/bin/ruff" check --fix .

docs: setup
	@"$$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]' && \
	"$$VENV/bin/mkdocs" build

clean:
	rm -rf demo fuzz-cases site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
