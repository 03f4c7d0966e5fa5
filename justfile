# One short command per chore; each line also works by hand.
python := "python"

# Show the recipes.
default:
    @just --list

# Install the package, editable, with everything the chores need.
setup:
    {{python}} -m pip install -e ".[test]"

# Format and mend what can be mended.
fmt:
    {{python}} -m ruff format .
    {{python}} -m ruff check --fix .

# Style, spelling, and that imports point down only.
lint:
    {{python}} -m ruff format --check .
    {{python}} -m ruff check .
    codespell
    {{python}} -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Types: mypy in strict mode, and that no exported name leaves its type to be inferred.
types:
    {{python}} -m mypy
    {{python}} -m basedpyright --verifytypes actorchat --ignoreexternal

# All tests, on all cores.
test *args:
    {{python}} -m pytest -n auto --dist worksteal {{args}}

# All tests on every supported Python that is installed (also by pyenv), each in an environment of its own under .matrix.
matrix *args:
    #!/usr/bin/env bash
    set -euo pipefail
    ran=0
    for version in 3.11 3.12 3.13 3.14; do
        found=""
        for candidate in "$(command -v "python$version" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            if "$candidate" -c "" 2>/dev/null; then found=$candidate; fi
        done
        if [ -z "$found" ]; then echo "== Python $version is not installed"; continue; fi
        echo "== $("$found" --version)"
        [ -x ".matrix/$version/bin/python" ] || "$found" -m venv ".matrix/$version"
        ".matrix/$version/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[test]"
        ".matrix/$version/bin/python" -m pytest -n auto {{args}}
        ran=1
    done
    [ "$ran" = 1 ]

# Branch coverage of the tests; missing lines are listed. Fails below the floor.
cov *args:
    {{python}} -m pytest -n auto --cov --cov-report=term --cov-fail-under=95 {{args}}

# The documentation site, in docs/_build. A warning is an error.
docs:
    {{python}} -m sphinx -q -W --keep-going -b html docs docs/_build

# The actor core under 20 orders of tasks, and its soak in full: some minutes, before a release.
soak:
    {{python}} -m pytest -n auto tests/actors --schedules 20
    {{python}} -m pytest -m soak

# Autobahn's own suite asks both websocket transports. Needs Python 2.7: `python2.7 -m pip install autobahntestsuite`.
autobahn wstest="wstest":
    WSTEST={{wstest}} {{python}} -m pytest -m autobahn tests/transports/test_autobahn.py

# The whole server from random seeds, with faults: `just simulate --seeds 10000`, `just simulate --minutes 60`.
simulate *args:
    {{python}} -m actorchat.testing.simulation {{args}}

# What the speed claims rest on: ratios measured side by side.
bench *args:
    {{python}} -m bench {{args}}

# All of it: what CI runs.
check: lint types docs test
