# Each target is one command; what takes more than that is a script in .ci.
# ARGS is passed on: make run ARGS="-transport websocket"

.DEFAULT_GOAL := help
.PHONY: help run test lint fuzz bench gobench faults wasm test-browsers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: ## serve the orchestrator example on http://127.0.0.1:8080
	go run ./examples/orchestrator $(ARGS)

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

wasm: ## build the npm package @execcast/wasm into wasm/dist
	node wasm/build.mjs

test-browsers: ## compare the wasm build with the native one, a million frames, and run it in every browser (some minutes)
	@.ci/test-browsers
