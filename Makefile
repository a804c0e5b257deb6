# Short verbs. Each has a plain form in README.md, for machines without make.
#
# PYTHON chooses the interpreter, VENV where the environment of the tests is made.

PYTHON ?= python3
VENV ?= .venv
CHECK_VENV ?= .check-venv
# Pinned, so that a new release of a tool does not fail an old commit. Python 3.10 or newer.
CHECK_TOOLS = ruff==0.17.6 mypy==2.4.1

# In which form the program is tested: package, wheel, single, pyz or vendored (tests/forms.py).
FORM ?= package
FORMS ?= package wheel single pyz vendored

.PHONY: demo test test-all test-forms check format single pyz bench clean

demo:
	$(PYTHON) -m backgroundr --demo

# Another set of tests: make test TESTS="tests/test_tools.py -k list"
test: $(VENV)/ready
	TEST_FORM=$(FORM) $(VENV)/bin/python -m pytest $(TESTS)

$(VENV)/ready:
	$(PYTHON) -m venv $(VENV) || { echo "This Python cannot make an environment;" \
	    "on Debian and Ubuntu install the package python3-venv." >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "pytest>=7"
	touch $@

# The suite on each Python from 3.8 to 3.13 that is on this machine.
test-all:
	@set -e; $(PYTHON) tests/pythons.py | while read -r version python; do \
	    echo "== Python $$version"; \
	    $(MAKE) --no-print-directory test PYTHON="$$python" VENV=.venv-$$version </dev/null; \
	done

# The suite on each form of the program.
test-forms:
	@set -e; for form in $(FORMS); do \
	    echo "== form: $$form"; \
	    $(MAKE) --no-print-directory test FORM=$$form </dev/null; \
	done

# The whole program as one readable file, and as a zip application.
single:
	$(PYTHON) -m backgroundr.amalgamate

pyz:
	$(PYTHON) -m backgroundr.amalgamate --pyz

# Style, types as each system sees them, and the floors of the design.
check: $(CHECK_VENV)/ready $(VENV)/ready
	$(CHECK_VENV)/bin/ruff format --check .
	$(CHECK_VENV)/bin/ruff check .
	$(CHECK_VENV)/bin/mypy --platform linux --exclude proctree_win
	$(CHECK_VENV)/bin/mypy --platform darwin --exclude proctree_win
	$(CHECK_VENV)/bin/mypy --platform win32 --python-version 3.12 --follow-imports silent \
	    --exclude "proctree_posix|proctable|guardian"
	$(VENV)/bin/python -m pytest --quiet tests/test_layout.py

format: $(CHECK_VENV)/ready
	$(CHECK_VENV)/bin/ruff format .
	$(CHECK_VENV)/bin/ruff check --fix .

$(CHECK_VENV)/ready: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "the tools of" \
	    " make check need Python 3.10 or newer: make check PYTHON=python3.12")'
	$(PYTHON) -m venv $(CHECK_VENV)
	$(CHECK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(CHECK_TOOLS)
	touch $@

# Fewer figures, or a quick look: make bench BENCH="--quick capture"
bench:
	mkdir -p build
	$(PYTHON) tests/bench.py --json build/bench.json $(BENCH)

clean:
	rm -rf .venv .venv-* $(CHECK_VENV) build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
