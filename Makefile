# The two commands that a fresh clone needs are `make book` and `make test`. Each first calls
# tools/bootstrap.py, which makes .venv when it is missing, half-made or out of date.
#
#   TORCH=system    keep the torch and torchvision that the machine has (README.md says when)
#   PYTHON=path     the Python to build on; otherwise the newest of python3.13, 3.12, 3.11, python3
#   CASE=name       what `make bench` times: a case or a family (otherwise all)
#   PORT=8000       where `make serve` shows the site

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
PORT ?= 8000

# Only from the command line: a PYTHON or TORCH in the environment is meant for something else.
given = $(if $(filter command,$(firstword $(origin $(1)))),$($(1)))
BOOTSTRAP := tools/bootstrap.py \
	$(if $(call given,TORCH),--torch "$(call given,TORCH)") \
	$(if $(call given,PYTHON),--python "$(call given,PYTHON)")

.PHONY: help ready book test test-unit test-grading test-notebooks test-site test-lowest test-newest \
	lint types lab slides serve bench measure claims picture format clean distclean

help:
	@printf 'make book            run every notebook and build the site\n'
	@printf 'make test            check everything: code, notebooks, site\n\n'
	@printf 'make lab             open your copies of the learner\047s notebooks in JupyterLab\n'
	@printf 'make slides          make slides and figures for teaching from the chapters\n'
	@printf 'make serve           show the built site at http://127.0.0.1:$(PORT)/ (PORT=8000)\n'
	@printf 'make format          bring code and notebooks into their stored form\n\n'
	@printf 'make test-unit       unit tests, doctests, equation tests\n'
	@printf 'make test-grading    every hostile and broken submission (minutes)\n'
	@printf 'make test-notebooks  every notebook against its recorded outputs\n'
	@printf 'make test-site       build the site, then check its pages\n'
	@printf 'make test-lowest     unit tests with the oldest versions allowed (takes 6 GB)\n'
	@printf 'make test-newest     unit tests, notebooks and site with the newest of everything\n'
	@printf 'make lint            ruff, stored form of the notebooks, spelling\n'
	@printf 'make types           mypy\n\n'
	@printf 'make bench           speed, as ratios within one run (CASE=continual for some)\n'
	@printf 'make measure         record run time and memory of every chapter\n'
	@printf 'make claims          write the figures that marked sentences rest on\n'
	@printf 'make picture         take the README'"'"'s picture of the built site (needs Chromium)\n'
	@printf 'make clean           remove what was built\n'
	@printf 'make distclean       remove the environment .venv too\n\n'
	@printf 'The first of them sets up .venv. To keep a torch that is installed already:\n'
	@printf '  make book TORCH=system PYTHON=/path/to/its/python\n'

ready:
	@for python in python3 python3.13 python3.12 python3.11; do \
		if $$python -c '' >/dev/null 2>&1; then exec $$python $(BOOTSTRAP); fi; \
	done; \
	echo "Python 3.11 or newer is needed, and no working python3 was found." >&2; \
	echo "Install it (Debian, Ubuntu: sudo apt install python3 python3-venv), then try again." >&2; \
	exit 1

book: ready
	@$(PY) tools/build_site.py

test: ready
	@$(PY) tools/check.py

test-unit: ready
	@$(PY) tools/check.py unit

test-grading: ready
	@$(PY) -m pytest -q -n 2 tests/grading

test-notebooks: ready
	@$(PY) tools/check.py notebooks

test-site: ready
	@$(PY) tools/check.py site pages

test-lowest: ready
	@$(PY) tools/versions.py lowest

test-newest: ready
	@$(PY) tools/versions.py newest

lint: ready
	@$(PY) tools/check.py lint format stored spelling lab

types: ready
	@$(PY) tools/check.py types

lab: ready
	@$(PY) tools/lab.py --mine my-notebooks
	@$(PY) -m jupyter lab my-notebooks

slides: ready
	@$(PY) tools/slides.py

serve:
	@test -f _build/html/index.html || { echo "There is no site yet. Build it with: make book" >&2; exit 1; }
	@echo "http://127.0.0.1:$(PORT)/ shows the site. Ctrl-C stops it."
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

bench: ready
	@$(PY) tools/bench $(CASE)

measure: ready
	@$(PY) tools/measure_chapters.py

claims: ready
	@$(PY) -m pytest -q -m claim --record-claims tests/experiments

picture: ready
	@$(PY) tools/picture.py

format: ready
	@$(PY) -m ruff check --quiet --fix-only .
	@$(PY) -m ruff format .
	@$(PY) tools/format_notebooks.py
	@$(PY) tools/lab.py

clean:
	rm -rf _build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv.old
