# Everything a developer does, by name. `make` alone lists it.

GO       ?= go
ARGS     ?=
# KEEP=1 leaves the cluster of `make e2e` running, so that the next run starts at once.
KEEP     ?=
keep     := $(filter-out 0 no false,$(KEEP))
programs := tulle tulle-controller tulle-proxy tulle-namer helloworld
# The released programs and the images hold static binaries: there is nothing else in the images.
version  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
build    := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(version)'
cluster  := build/cluster
images   := tulle-controller tulle-proxy tulle-namer helloworld
load     := for p in $(images); do $(cluster) load tulle.dev/$$p:dev build/$$p || exit 1; done

# The go command uses all CPUs by itself; -j would only mix up what is printed.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help
help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##
.PHONY: demo
demo: build/tulle build/tulle-proxy build/helloworld ## run a whole mesh on this machine's loopback addresses; ARGS=--once checks it and ends
	@build/tulle demo $(ARGS)

.PHONY: test
test: cluster-check packages unit e2e ## all of the tests: unit, and e2e, which needs Linux and root

.PHONY: unit
unit: race-check format vet ## the fast tests: formatting, vet, staticcheck, every package with -race
	@echo "unit: the tests of all packages, with the race detector"
	@$(GO) test -race -timeout 5m ./...

# The race detector is C, and linked by a C compiler (on macOS it is not).
.PHONY: race-check
race-check:
	@[ "$$($(GO) env GOOS)" = darwin ] || \
		echo '#include <stdlib.h>' | $$($(GO) env CC) -E -x c - >/dev/null 2>&1 || { \
		echo "the race detector needs a C compiler and the C library's headers, which are missing here; make packages installs them on Debian and Ubuntu"; exit 1; }

# The cluster's own test replaces a cluster that runs, and so is left out with KEEP, and when -run names others;
# the soak, which needs no cluster, goes with it.
# Kubernetes is built before, so that the limits are for the tests alone.
.PHONY: e2e
e2e: cluster-check packages build $(cluster) ## the tests on a real cluster; KEEP=1 leaves it running, ARGS go to go test
	@$(cluster) build
ifeq ($(keep)$(filter -run%,$(ARGS)),)
	@echo "e2e: the cluster, and that it leaves nothing behind"
	@$(GO) test -tags e2e -count=1 -timeout 15m -v -run '^Test(Cluster|API)$$' ./e2e/cluster $(ARGS)
	@echo "e2e: names, against an API server alone"
	@$(GO) test -tags e2e -count=1 -timeout 10m -v ./e2e/names $(ARGS)
	@echo "e2e: admissions, by an API server alone"
	@$(GO) test -tags e2e -count=1 -timeout 15m -v ./e2e/admission/... ./e2e/lifecycle ./cmd/tulle/inject $(ARGS)
	@echo "e2e: a million requests through failures"
	@$(soak)
endif
	@echo "e2e: the mesh on the cluster"
	@KEEP=$(keep) $(GO) test -tags e2e -count=1 -timeout 40m -v ./e2e $(ARGS)

soak := $(GO) test -tags e2e -count=1 -timeout 10m -v ./e2e/soak
.PHONY: soak
soak: build/tulle-proxy ## send a million requests through the proxy while endpoints join, leave and fail; SOAK_REQUESTS sends fewer
	@[ "$$(uname -s)" = Linux ] || { echo "the soak reads the Linux kernel's accounting; this is $$(uname -s)"; exit 1; }
	@$(soak) $(ARGS)

.PHONY: packages
packages: ## install what the tests need of Debian or Ubuntu, or name the command that does
	@CGO_ENABLED=0 $(GO) run ./e2e/cluster/cmd/packages

.PHONY: bench
bench: build/tulle-proxy build/tulle-controller ## compare the proxy with HAProxy, Envoy and Caddy on this machine, and measure the namer and the injector; ARGS=name measures one row, ARGS=-h names them
	@[ "$$(uname -s)" = Linux ] || { echo "the benchmark reads the Linux kernel's accounting; this is $$(uname -s)"; exit 1; }
	@CGO_ENABLED=0 $(GO) build -o build/bench ./e2e/bench
	@build/bench $(ARGS)

.PHONY: format
format: ## check the formatting
	@echo "unit: formatting"
	@out=$$(gofmt -l .) && \
		if [ -n "$$out" ]; then echo "these files are not formatted; run gofmt -w on them:"; echo "$$out"; exit 1; fi

.PHONY: vet
vet: ## go vet and staticcheck, the end-to-end tests included
	@echo "unit: go vet"
	@$(GO) vet -tags e2e ./...
	@echo "unit: staticcheck"
	@$(GO) tool staticcheck -tags e2e ./...

.PHONY: fuzz
fuzz: ## let every fuzz target search for FUZZTIME (10s)
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "fuzz: $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-10s} $$pkg || exit 1; \
		done; done

.PHONY: kustomize
kustomize: ## write the base for kustomize anew, from the chart
	@$(GO) test -count=1 -run '^TestBase$$' ./manifests -update

.PHONY: build
build: $(programs:%=build/%) ## build the programs into build/

# Go knows best what has to be built again.
.PHONY: $(programs:%=build/%)
$(programs:%=build/%): build/%:
	@mkdir -p build
	@echo "build: $*$$(test -f $@ || echo ' (the first time can take minutes)')"
	@$(build) -o $@ ./cmd/$*

.PHONY: $(cluster)
$(cluster):
	@test -f $@ || echo "build: cluster (the first time can take minutes)" >&2
	@$(GO) build -o $(cluster) ./e2e/cluster/cmd/cluster

.PHONY: cluster-check
cluster-check:
	@[ "$$(uname -s)" = Linux ] && [ "$$(id -u)" = 0 ] || { \
		echo "the end-to-end tests run a real Kubernetes, which needs Linux and root; this is $$(uname -s) as $$(id -un). make unit runs everything else."; exit 1; }

.PHONY: cluster-up
cluster-up: cluster-check build $(cluster) ## bring up a two-node Kubernetes and give it this tree's images
	@$(cluster) up
	@$(load)
	@echo "The cluster is up. make mesh-up installs Tulle on it; make kubectl ARGS=\"get nodes\" talks to it."

.PHONY: cluster-down
cluster-down: $(cluster) ## take the cluster down and leave nothing behind
	@$(cluster) down

.PHONY: mesh-up
mesh-up: cluster-check build $(cluster) ## install this tree's Tulle on the cluster, with the hello and world example
	@$(load)
	@running=$$($(cluster) kubectl get --ignore-not-found -n tulle deployment/tulle-controller -o name) && \
		build/tulle install | $(cluster) kubectl apply -f - && \
		if [ -n "$$running" ]; then $(cluster) kubectl rollout restart -n tulle deployment/tulle-controller daemonset/tulle-host; fi
	@$(cluster) kubectl -n tulle rollout status --timeout=120s deployment/tulle-controller daemonset/tulle-host
	@$(cluster) kubectl apply -f manifests/examples/hello-world.yaml

.PHONY: kubectl
kubectl: $(cluster) ## kubectl on the cluster, as in: make kubectl ARGS="get pods -A"
	@$(cluster) kubectl $(ARGS)

.PHONY: clean
clean: ## remove build/; what was built of Kubernetes stays in the cache directory of the user
	@rm -rf build
