# Two commands: `make reproduce` and `make test`. `make help` lists all.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SIZE ?= laptop

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test unit slow notebooks lint html docs figures browser lab bench torture fuzz doctor clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv and install what requirements.lock pins
	@:

reproduce: $(READY) ## Run all notebooks, write figures/index.html (FORCE=1: even what is done; SIZE=full)
	@$(BIN)/easytune reproduce --size $(SIZE) $(if $(filter-out 0,$(FORCE)),--force)

test: $(READY) ## Check everything: format, lint, types, unit tests, notebooks
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory slow
	@$(MAKE) --no-print-directory notebooks

lint: $(READY) ## Format, lint and types alone
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

unit: $(READY) ## Unit tests alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not browser" tests

slow: $(READY) ## Tests of whole runs alone: kills, kernels, published networks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m slow tests

notebooks: $(READY) ## Run the committed notebooks and compare with their outputs
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m pytest -q -n 2 --dist loadfile \
		-p nbval_tolerance --nbval --nbval-current-env --nbval-cell-timeout 300 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg --nb-rtol 1e-3 --nb-atol 1e-5 notebooks

html: $(READY) ## Export all notebooks as web pages that need no network, into outputs/site
	@$(BIN)/easytune html

docs: $(READY) ## Guides, notebooks and reference as one site that needs no network, into outputs/docs
	@$(BIN)/easytune docs

browser: $(READY) ## Run and move all notebooks in a headless Chromium, screenshots in outputs/screenshots (a quarter of an hour; QUICK=1: two minutes)
	@$(BIN)/python -c "import playwright" 2>/dev/null || $(BIN)/python -m pip install --quiet "playwright>=1.45,<2" || true
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -m "browser$(if $(QUICK), and not long)" $(AGAIN) tests/browser

lab: $(READY) ## Open JupyterLab at the root, on the tour (this machine only, with a token)
	$(BIN)/jupyter-lab --ServerApp.ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=$(CURDIR) --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb

bench: $(READY) ## Measure what fine-tuning and reward training cost, as ratios in one run; writes a record in runs/ (minutes)
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks reward

figures: $(READY) ## Draw all figures and make all LaTeX tables anew, from runs/ alone
	@$(BIN)/easytune figures
	@$(BIN)/easytune tables

torture: $(READY) ## Kill runs of every stage 200 times, resume them, compare bit for bit; writes a record (half an hour)
	@$(BIN)/python -m tests.robustness torture

fuzz: $(READY) ## Throw 10,000 damaged files at every reader; writes a record (a minute)
	@$(BIN)/python -m tests.robustness fuzz

doctor: $(READY) ## Say what is installed, what is missing and what that costs
	@$(BIN)/easytune doctor

clean: ## Remove outputs and caches; .venv, runs and figures stay
	rm -rf outputs .ruff_cache .pytest_cache .hypothesis
	find easytune_lib tests -name __pycache__ -prune -exec rm -rf {} +

# A set-up that was killed is begun anew; one that is done costs nothing.
$(READY): requirements.lock pyproject.toml
	@set -eu; \
	if [ -e $(VENV)/.begun ]; then echo "an earlier set-up was cut short: beginning anew"; rm -rf $(VENV); fi; \
	python=; \
	for name in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
		if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python"; exit 1; fi; \
	echo "setting up $(VENV) with $$($$python --version), some minutes"; \
	mkdir -p $(VENV); \
	touch $(VENV)/.begun; \
	if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python "$$python" $(VENV); \
		links=$${PIP_FIND_LINKS:+--find-links $$PIP_FIND_LINKS}; \
		uv pip install --quiet --python $(BIN)/python $$links -r requirements.lock; \
		uv pip install --quiet --python $(BIN)/python $$links --no-deps -e .; \
	else \
		"$$python" -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; \
	fi; \
	mv $(VENV)/.begun $(READY)
