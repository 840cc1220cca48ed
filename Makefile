# Each target is one readable command; `make` alone lists them.
VENV := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make the controller ready: virtual environment in .venv, from the lock
	@tools/setup.sh controller

demo: lab-ready ## A machine, the whole site on it, a URL at the end; HOSTS=3: three of them; KIND=container or vm
	@$(VENV)/python tools/demo.py up "HOSTS=$(HOSTS)" "KIND=$(KIND)"

demo-ssh: setup ## Run a command on the demo machine: make demo-ssh CMD="sudo sitectl status"; of several: HOST=web1
	@$(VENV)/lab ssh demo$(addprefix -,$(HOST)) $${CMD:+"$$CMD"}

demo-down: setup ## Remove the demo's machines
	@$(VENV)/python tools/demo.py down

test: lab-ready ## Everything, side by side as the cores allow; at the end what failed. ONLY="front lab" for some parts
	@$(VENV)/python -m tools.scenarios $(ONLY)

lint: lab-ready ## Style and types
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/yamllint --strict .
	ANSIBLE_INVENTORY=inventory/hosts.example.yml ANSIBLE_STDOUT_CALLBACK=default $(VENV)/ansible-lint --offline
	shellcheck tools/*.sh tools/ways/*.sh lab/*.sh roles/*/files/*.sh .ci/run

unit: lab-ready ## Tests that start no program of ours: seconds
	$(VENV)/pytest -n auto --dist worksteal tests/unit

# Half of their time they wait for programs: two for each core.
process: lab-ready ## Tests with real Gunicorn, HAProxy, uv, git and ansible-playbook on this computer
	$(VENV)/pytest -n $$(($$(nproc) * 2)) --dist worksteal tests/process examples/currents/tests tests/edge

molecule: lab-ready ## Real machines: every scenario
	@$(VENV)/python -m tools.scenarios molecule

mutation: lab-ready ## Break what matters, line by line: do the tests notice? ARGS=--molecule for real machines too
	$(VENV)/python -m tools.mutation $(ARGS)

interrupt: lab-ready ## Kill deploys after each task, cut the power, compare the rerun; half an hour
	$(VENV)/python -m tools.interrupt $(ARGS)

bench: lab-ready ## Measure what is promised in figures; ARGS=overhead, recovery, deploy or hosts for a part
	$(VENV)/python -m tools.bench $(ARGS)

lock: setup ## Resolve requirements.in into requirements.lock
	$(VENV)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 requirements.in --output-file requirements.lock

clean: demo-down ## Remove what these targets made
	rm -rf .venv .cache

lab-ready: setup
	@tools/setup.sh lab

.PHONY: help setup demo demo-ssh demo-down test lint unit process molecule mutation interrupt bench lock clean lab-ready
.DEFAULT_GOAL := help
