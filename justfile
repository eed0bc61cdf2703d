# Headrace: what a developer does here. `uv run just` lists it.

set positional-arguments := true

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

# List what can be done
default:
    @just --list

# Run the tests, three at a time, because they mostly wait, and the long ones first; arguments go to pytest: `just test tests/unit -k clock`, `just test -n 0` for one at a time
test *arguments:
    python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"

# Everything that reads the code without running it
check:
    ruff check .
    ruff format --check .
    mypy
    lint-imports
    python -m pytest tests/unit/test_docs_pages.py

# Mend what the linter and the formatter can mend
fmt:
    ruff check --fix .
    ruff format .

# Start everything on loopback: PostgreSQL, Redis and every process
up *arguments:
    headrace up "$@"

# Watch an order being confirmed, and everything that follows
demo *arguments:
    headrace demo "$@"

# Measure, beside the alternatives, in one run on this machine
bench *arguments:
    python -m bench "$@"

# Kill real processes and see the promise kept, for jobs and for events: `just chaos --seconds 300 --jobs 10000 --events 200000 --seed 7`
chaos *arguments:
    python -m pytest tests/processes
    python -m tests.chaos "$@"
    python -m tests.chaos events "$@"

# Write deploy/headrace.env.example from the settings
environment-example:
    python deploy/environment_example.py > deploy/headrace.env.example
