# The two commands of the README are `make demo` and `make test`; each sets up what it needs.
BIN := .venv/bin
# Tests run side by side: more than one thread each, and torch's threads would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4

.PHONY: demo test test-full test-gpu check generate screenshots pictures clean

demo: .venv/.complete
	$(BIN)/trainvitals demo $(ARGS)

# What a contributor runs.
test: .venv/.complete
	$(PYTEST) $(ARGS)

# The long ones, and what concerns transformers once more with its newest version 4.
test-full: .venv/.complete .venv-transformers4/.complete
	$(PYTEST) -m long --timeout=1200 $(ARGS)
	$(subst $(BIN),.venv-transformers4/bin,$(PYTEST)) -m "long or not long" -k "transformers or trl" \
		tests/conformance tests/trainer_hooks/test_transformers.py \
		tests/trainer_hooks/test_transformers_loss.py tests/trainer_hooks/test_trl.py

# What needs a GPU, on a machine that has one; writes down what that one supports, and how fast.
test-gpu: .venv/.complete
	$(BIN)/python -m pytest -m "long or not long" tests/trainer_hooks/test_gpu.py tests/exporters/gpu/test_gpu.py $(ARGS)
	$(BIN)/python -m tests.benchmarks.gpu_device --record

check: .venv/.complete
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m exporters.metrics_page --check
	$(BIN)/python -m alerts.build --check
	$(BIN)/python -m dashboards.build --check
	$(BIN)/python -m trainvitals.drill.page --check

# Write METRICS.md, alerts/generated, dashboards/generated and docs/drill.md anew.
generate: .venv/.complete
	$(BIN)/python -m exporters.metrics_page
	$(BIN)/python -m alerts.build
	$(BIN)/python -m dashboards.build
	$(BIN)/python -m trainvitals.drill.page

# Take the README's pictures anew, of trainings that run while they are taken.
screenshots: .venv/.complete
	$(BIN)/python -m tests.page.screenshots

# Take the pictures of the dashboards anew, of recorded scenarios; npm fetches Grafana's components once.
PREVIEW := $(BIN)/trainvitals dashboards preview --output docs/images --theme dark --width 1600
pictures: .venv/.complete
	$(PREVIEW) $(addprefix --dashboard trainvitals-,fleet gpus goodput alerts)
	$(PREVIEW) --dashboard trainvitals-compare $(addprefix --run ,tiny-chat-lr1e-4 tiny-chat-lr3e-4 harvest-sft)
	$(PREVIEW) --dashboard trainvitals-run --run harvest-sft
	$(PREVIEW) --dashboard trainvitals-ranks --run atlas-pretrain-7b
	$(PREVIEW) --dashboard trainvitals-foundation --run wayfarer-lora

.venv/.complete: setup.sh pyproject.toml trainer_hooks/pyproject.toml tests/constraints.txt
	./setup.sh

.venv-transformers4/.complete: .venv/.complete
	$(BIN)/python -m venv .venv-transformers4
	.venv-transformers4/bin/python -m pip install --quiet --constraint tests/constraints.txt \
		--editable ./trainer_hooks 'transformers<5' accelerate datasets peft pytest pytest-timeout pytest-xdist trl
	touch $@

clean:
	rm -rf .venv .venv-transformers4 build dist *.egg-info trainer_hooks/build trainer_hooks/*.egg-info checkpoints lightning_logs
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
