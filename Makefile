# SPDX-License-Identifier: Apache-2.0

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GOLANGCI_LINT := go tool -modfile=hack/tools/golangci-lint/go.mod golangci-lint
BUF := go tool -modfile=hack/tools/buf/go.mod buf

.PHONY: help
help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-9s %s\n", $$1, $$2}'

.PHONY: demo
demo: ## Run the whole product on this machine and walk through the main job. It goes on running, in DEMO_DIR (~/.cache/hsm/demo).
	@hack/demo.sh

.PHONY: down
down: ## End what "make demo" has left running, and remove what it wrote while it ran.
	@hack/demo.sh down

.PHONY: packages
packages: ## Install what the other targets need beyond Go (gcc, git, make, SoftHSM 2) on Debian and its children, or say what is missing.
	@hack/ensure-packages.sh

# grpcnotrace: without the traces of gRPC, which nothing here shows, no template can call any
# method by its name, and the linker drops those that are not called: a quarter of the API server.
.PHONY: build
build: packages ## Build all binaries into bin/. Only the agent needs cgo.
	CGO_ENABLED=0 go build -tags=grpcnotrace -trimpath -o bin/ ./cmd/apiserver ./cmd/controller ./cmd/discovery
	CGO_ENABLED=1 go build -tags=grpcnotrace -trimpath -o bin/ ./cmd/agent

.PHONY: generate
generate: packages ## Regenerate all generated code in the checkout.
	hack/update-codegen.sh

.PHONY: assets
assets: ## Find, download or build etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and cert-manager, once per machine.
	@hack/assets.sh

.PHONY: clean
clean: ## Remove bin/, and what tests and the demo have built of this checkout in ~/.cache/hsm. The binaries of Kubernetes there stay.
	rm -rf bin
	@# The folder's name is that of assets.Own (test/framework/controlplane/assets/own.go).
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/hsm/bin-$$(printf %s "$(CURDIR)" | sha256sum | head -c 16)"{,-race}

.PHONY: test
test: packages assets ## Run all tests with the race detector, after the assets. hack/test.sh ./pkg/token runs those of one package.
	@hack/test.sh

.PHONY: lint
lint: packages ## Run the linters for Go, protobuf and Dockerfiles, and look for missing licences.
	$(GOLANGCI_LINT) run ./...
	$(BUF) lint
	go run -C hack/tools/dockerfile-lint . $(CURDIR)/Dockerfile
	hack/verify-headers.sh

.PHONY: verify
verify: packages ## Check that generated code is up to date, then lint.
	hack/verify-codegen.sh
	@$(MAKE) --no-print-directory lint

.PHONY: bench
bench: packages assets ## Run all benchmarks, BENCH_COUNT times each (default 1).
	@hack/bench.sh

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: packages ## Run every fuzz target for FUZZTIME each (default 30s).
	@hack/fuzz.sh $(FUZZTIME)

HISTORIES ?= 10000
RESTARTS ?= 20
KILLS ?= 600
.PHONY: soak
soak: packages assets ## Run the long tests at full length: HISTORIES random histories of the token store (10000), RESTARTS restarts of API servers (20), KILLS ends of discovery pods (600), 5 minutes of nothing.
	@hack/soak.sh $(HISTORIES) $(RESTARTS) $(KILLS)
