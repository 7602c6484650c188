# The code assistant: its own environment, never resolved with the services.
FT := finetune
FT_VENV := $(FT)/.venv
FT_PY := $(FT_VENV)/bin/python
FT_UV := $(FT_VENV)/bin/uv
FT_READY := $(FT_VENV)/.ready
FT_SOURCE ?= .
FT_DATA ?= var/finetune/dataset
FT_RUN ?= var/finetune/run
FT_BASE ?= smollm2
FT_FORMATS ?= adapter
# On a machine without a GPU, where the PyTorch index is reachable: FT_TORCH_BACKEND=cpu
FT_TORCH_BACKEND ?=

FT_LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header

$(FT_READY): $(FT)/requirements.txt requirements/uv.txt
	@test -x $(FT_PY) || $(PYTHON) -m venv $(FT_VENV)
	@$(FT_PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "installing the fine-tuning packages (the first time: about 5.6 GB, most of it PyTorch)"
ifeq ($(FT_TORCH_BACKEND),)
	@$(FT_UV) pip install -q --python $(FT_PY) --require-hashes --no-deps -r $(FT)/requirements.txt
else
	@$(FT_UV) pip install -q --python $(FT_PY) --torch-backend=$(FT_TORCH_BACKEND) --no-verify-hashes \
	  --override $(FT)/overrides.txt --constraint $(FT)/requirements.txt -r $(FT)/requirements.in
endif
	@touch $@

finetune: $(FT_READY) ## train the code assistant on FT_SOURCE (this repository): data, training, report, export
	@$(FT_PY) $(FT)/walk.py $(FT_SOURCE) --data $(FT_DATA) --run $(FT_RUN) --base $(FT_BASE) \
	  --formats $(FT_FORMATS) --eval_flags "$(FT_EVAL_FLAGS)" -- $(FT_FLAGS)

finetune-serve: $(FT_READY) ## answer questions with the trained assistant on 127.0.0.1:8765
	@$(FT_PY) $(FT)/server.py --run $(FT_RUN) --source $(FT_SOURCE)

test-finetune: $(FT_READY) ## tests of finetune on a tiny model; WEIGHTS=1: on the real SmolLM2 weights too
	@cd $(FT) && .venv/bin/python -m pytest -m "not gpu$(if $(WEIGHTS),, and not weights)"

bench-finetune: $(FT_READY) ## the training throughput table, into var/bench/finetune/
	@$(FT_PY) $(FT)/bench.py all --out var/bench/finetune $(FT_FLAGS)

finetune-lock: ## renew finetune/requirements.txt
	@test -x $(FT_UV) || { test -x $(FT_PY) || $(PYTHON) -m venv $(FT_VENV); $(FT_PY) -m pip install -q --require-hashes -r requirements/uv.txt; }
	@$(FT_UV) pip compile --upgrade --override $(FT)/overrides.txt $(FT_LOCK) \
	  $(FT)/requirements.in -o $(FT)/requirements.txt
	@for kernel in flash4 trl; do $(FT_UV) pip compile --no-deps --prerelease allow $(FT_LOCK) \
	  $(FT)/requirements-$$kernel.in -o $(FT)/requirements-$$kernel.txt; done
	@cp requirements/uv.txt $(FT)/requirements-uv.txt

finetune-image-check: ## build the image on BASE without flash-attn and train a tiny model inside
	@$(FT)/image_check.sh

.PHONY: finetune finetune-serve test-finetune bench-finetune finetune-lock finetune-image-check
