# Each target is one command; what takes more than that is a script in .ci.
# ARGS is passed on: make run ARGS="-transport websocket"

.DEFAULT_GOAL := help
.PHONY: help run cluster test lint fuzz bench gobench faults faults-cluster wasm test-browsers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: ## serve the orchestrator example on http://127.0.0.1:8080
	go run ./examples/orchestrator $(ARGS)

cluster: ## run three nodes on a JetStream cluster of their own (ARGS="-nats URL": on yours), with a page that survives them
	cd examples/cluster && go run . $(ARGS)

test: ## run every check and every test; installs what is missing, where it can
	@.ci/test

lint: ## check formatting, vet, staticcheck, and that all systems compile
	@.ci/lint

fuzz: ## fuzz every target in turn, each for FUZZTIME (default 30s)
	@.ci/fuzz

bench: ## measure the fan-out beside other libraries and the kernel's limit (ARGS=-quick: a few minutes)
	cd examples/benchmark && go run . $(ARGS)

gobench: ## run core's Go benchmarks
	go test -run '^$$' -bench . -benchmem $(ARGS) ./core/...

faults: ## cut, stall, block and shut down under load, and print what was lost (some minutes)
	go run ./examples/faults $(ARGS)

faults-cluster: ## kill and stop nodes of a cluster under load, and print what was lost (some ten minutes; ARGS="-unguarded gaps" turns it red)
	cd examples/cluster && go test -run 'TestFaults|TestFinishAndKill|TestMany|TestCatchUp' -v -count=1 -timeout 40m . -args \
		-kills 20 -stops 10 -viewers 500 -events 150000 -finishes 200 -many 50000 $(ARGS)

wasm: ## build the npm package @execcast/wasm into wasm/dist
	node wasm/build.mjs

test-browsers: ## prove what the npm package promises: a million frames, every browser (some minutes); installs like test
	@.ci/test-browsers
