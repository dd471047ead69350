# Every task a person runs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Everything that is built or downloaded outside the clone lies here, by content hash.
export TUNEYARD_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tuneyard
export KUBECONFIG ?= $(TUNEYARD_CACHE)/kubeconfig
export PATH := $(TUNEYARD_CACHE)/bin:$(PATH)

UV := $(or $(shell command -v uv),$(TUNEYARD_CACHE)/uv/bin/uv)
RUN := $(UV) run --frozen --all-packages
CLUSTER := python3 tests/cluster
FAILURES := PYTHONPATH=tests:examples $(RUN) python -m planted.page
ARGOCD := PYTHONPATH=tests:examples $(RUN) python tests/argocd/record.py
HELM := helm --kubeconfig $(KUBECONFIG)

.PHONY: help
help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: install ## The main job, end to end: cluster, images, fine-tuning, serving, before and after
	PYTHONPATH=examples $(RUN) python -m demo.demo --s3-image $(call tag,s3) --model "$$(cat $(MODEL))"

.PHONY: results
results: install ## docs/results.md: the demo's numbers and answers before and after, from a run of it
	PYTHONPATH=examples $(RUN) python -m demo.demo --s3-image $(call tag,s3) --model "$$(cat $(MODEL))" --results docs/results.md

.PHONY: test
test: check install integration test-tools ## Everything: lint, types, unit, contract, integration, end to end
	# The contract tests wait more than they work, each file for its own servers.
	$(RUN) pytest tests/contract -n 4 --dist loadfile --durations 20
	# A pod that starts, or ends, leaves a core to the pods of another test. Ten failures are enough to see why.
	TUNEYARD_DEMO_MODEL="$$(cat $(MODEL))" $(RUN) pytest tests/e2e -n 2 --dist loadfile --no-loadscope-reorder --durations 40 --maxfail 10

.PHONY: chaos
chaos: install test-tools chaos-tools ## Stages killed 60 times, then 200 faults over an API server and 200 over a cluster with real jobs; not in CI
	TUNEYARD_KILLS=30 tests/integration/run $(call tag,trainer) integration/test_stage_faults.py
	TUNEYARD_DEMO_MODEL="$$(cat $(MODEL))" $(RUN) pytest tests/chaos

.PHONY: autoscaling
autoscaling: install $(PROMETHEUS) ## A HorizontalPodAutoscaler on a metric of vLLM; builds prometheus-adapter first (10 minutes); not in CI
	TUNEYARD_DEMO_MODEL="$$(cat $(MODEL))" $(RUN) pytest tests/autoscaling

# For a machine without internet: `make gpu-wheels GPU_PYTHON_VERSION=3.12` where there is one, and copy the clone.
PYTHON ?= python3
GPU_PYTHON_VERSION ?= 3.11
.PHONY: gpu gpu-wheels
gpu: ## Speed and memory of trainings on this machine's GPU, into gpu.json; PYTHON has torch, transformers and accelerate
	[ ! -d .wheels ] || $(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target .wheels/site .wheels/*.whl
	PYTHONPATH=tests:crds/src:store/src:trainer/src:.wheels/site $(PYTHON) -m gpu.measure --output gpu.json

gpu-wheels: ## What `make gpu` needs beside these, into .wheels
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version $(GPU_PYTHON_VERSION) \
	  $(foreach glibc,2_28 2_27 2_24 2_17,--platform manylinux_$(glibc)_x86_64) --platform manylinux2014_x86_64 \
	  --requirement tests/gpu/requirements.txt --dest .wheels

.PHONY: argocd
argocd: setup ## Commits during a run and the health scripts, by Argo CD itself, which is built first (20 minutes on 2 cores); not in CI
	@$(CLUSTER) tools node >/dev/null
	$(RUN) pytest tests/argocd

.PHONY: pages
pages: setup ## The reports in Chromium, which CHROMIUM may name: no page is wider than a phone; not in CI
	$(RUN) pytest tests/browser

.PHONY: ranks
ranks: ## The table of docs/lora-rank.md, from the jobs of examples/ranks in the current namespace
	kubectl get finetunejobs -l tuneyard.dev/comparison=ranks -o json | python3 examples/ranks/compare.py

.PHONY: tracking
tracking: setup ## A training's metrics in a real MLflow server, which is downloaded first (600 MB); not in CI
	$(RUN) pytest tests/tracking

.PHONY: score
score: setup ## kube-score on the chart's output; builds it first (1 minute); not in CI
	$(RUN) pytest tests/score

.PHONY: fuzz
fuzz: setup ## 10,000 mutations of each kind of file that users bring; not in CI. KINDS= and MUTATIONS= choose fewer
	PYTHONPATH=tests:examples $(RUN) python -m fuzz.run --jobs "$$(nproc)" --mutations $(or $(MUTATIONS),10000) $(KINDS)

# Also where the environment forbids bytecode: without it each program that a test starts compiles its imports again.
check lint types unit: export PYTHONDONTWRITEBYTECODE :=
check lint types unit: export PYTHONPYCACHEPREFIX := $(TUNEYARD_CACHE)/bytecode
# A new clone has what mypy found in another one: it reads a cache by the files' content.
check lint types unit: export MYPY_CACHE_DIR := $(TUNEYARD_CACHE)/mypy
.PHONY: check
check: lint types unit ## The quick loop: lint, types, unit tests

.PHONY: lint
lint: setup ## Style, import layers, generated files
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) lint-imports
	$(RUN) python crds/generate.py --check
	$(RUN) python charts/generate.py --check
	$(ARGOCD) --check

.PHONY: types
types: setup ## Static types
	$(RUN) mypy crds/src store/src operator/src trainer/src server/src cli/src crds/generate.py charts/generate.py examples tests

.PHONY: unit
unit: setup ## Unit tests
	$(RUN) pytest tests/unit -q -n "$$(nproc)" --maxprocesses 8 --dist worksteal

.PHONY: generate
generate: setup ## Write the generated files: CRDs, the chart's copy and RBAC rules, docs/api.md, docs/failures.md, docs/argocd
	$(RUN) python crds/generate.py
	$(RUN) python charts/generate.py
	$(ARGOCD)
	$(FAILURES)

.PHONY: format
format: setup ## Format the code
	$(RUN) ruff check --fix
	$(RUN) ruff format

.PHONY: cluster
cluster: ## Bring up the kind cluster (installs what it needs)
	$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Take the cluster away; nothing is left behind
	$(CLUSTER) down

# The tags of the images that this tree builds, and the directory of the demo's model.
TAGS := $(TUNEYARD_CACHE)/tags.json
MODEL := $(TUNEYARD_CACHE)/demo-model
tag = "$$(python3 -c 'import json; print(json.load(open("$(TAGS)"))["$(1)"])')"

# The build of vLLM: cpu or cuda.
VARIANT ?= cpu
.PHONY: images
ifdef REGISTRY
images: ## Build the images and load them into the cluster; with REGISTRY=... [VARIANT=cuda]: push them, for your own
	images/build --variant $(VARIANT) --push $(REGISTRY) --values images.yaml
else
images: cluster
	images/build --variant $(VARIANT) --demo-model
	images/build --variant $(VARIANT) --print-tags > $(TAGS)
	$(CLUSTER) load $(foreach image,operator trainer axolotl server llamacpp s3 kueue,$(call tag,$(image)))
endif

.PHONY: chart
chart: ## Package the Helm chart into dist/; with REGISTRY=...: push it there as an OCI artifact
	$(HELM) package charts/tuneyard --destination dist
	$(if $(REGISTRY),$(HELM) push dist/tuneyard-*.tgz oci://$(REGISTRY))

.PHONY: install
install: setup images ## Install the Helm chart into the cluster
	# Helm installs CRDs, but never updates them.
	kubectl apply --server-side --force-conflicts -f charts/tuneyard/crds
	$(HELM) upgrade --install tuneyard charts/tuneyard --namespace tuneyard-system --create-namespace --wait \
	  --set images.operator=$(call tag,operator) --set images.trainer=$(call tag,trainer) --set images.server=$(call tag,server) \
	  --set images.axolotl=$(call tag,axolotl) --set images.llamacpp=$(call tag,llamacpp) \
	  --set webhook.checkSecrets=true

.PHONY: integration
integration: images ## The ML stages, in the trainer image; Axolotl in its own; the tokens, in the server image too
	tests/integration/run $(call tag,trainer) integration -m "not slow"
	tests/integration/tokens $(call tag,trainer) $(call tag,server)
	# Each of these leaves a core to the other for much of its time.
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target integration-axolotl integration-engines

.PHONY: integration-axolotl integration-engines
integration-axolotl:
	tests/integration/run $(call tag,axolotl) integration_axolotl
integration-engines:
	tests/integration/run $(call tag,server) engines -m "not slow"

.PHONY: integration-slow
integration-slow: images ## Training under a real limit of memory, and what `make gpu` runs, without a GPU; not in CI
	tests/integration/run $(call tag,trainer) integration -m slow

.PHONY: requests
requests: images ## 2,000 random mixes of the options of chat and completion requests, on a real vLLM; not in CI
	tests/integration/run $(call tag,server) engines -m slow

# What the contract tests run against, besides the cluster. Of Debian's Prometheus only two programs are wanted.
PROMETHEUS := $(TUNEYARD_CACHE)/bin/prometheus
.PHONY: test-tools
test-tools: $(PROMETHEUS)
	@$(CLUSTER) tools versitygw kueue node >/dev/null
	@command -v nginx >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light; }

$(PROMETHEUS):
	@apt-get update -qq && cd "$$(mktemp -d)" && apt-get download -qq prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb . \
	  && mkdir -p $(@D) && mv usr/bin/promtool usr/bin/prometheus $(@D)/

# What moves the clock of a running operator.
.PHONY: chaos-tools
chaos-tools:
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libfaketime; }

.PHONY: setup
setup:
	@[ -x "$(UV)" ] || { python3 -m venv $(TUNEYARD_CACHE)/uv && $(TUNEYARD_CACHE)/uv/bin/pip install --quiet uv; }
	@$(UV) sync --frozen --quiet --all-packages
