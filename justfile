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

# Build the widget, the SDK, the console and the demo page from actorchat/web/src into actorchat/web/static.
web: web-packages
    cd actorchat/web/src && node build.mjs

# The same at every change of a file.
web-watch: web-packages
    cd actorchat/web/src && node build.mjs --watch

# The browser's side: its types, its tests, and that the committed files are what the sources build.
web-check: web-packages
    cd actorchat/web/src && node node_modules/typescript/bin/tsc -p .
    cd actorchat/web/src && node --test "test/*.test.ts"
    rm -rf build/web && node actorchat/web/src/build.mjs build/web && diff -r --exclude '*.br' build/web actorchat/web/static

# Pictures of the demo page and of every state of the widget and the console, in build/screenshots. Needs Chromium.
screenshots *args:
    {{python}} -m tests.web.screenshots build/screenshots {{args}}
    {{python}} -m tests.web.console_states build/screenshots {{args}}

# The console with 5,000 chats and 50 messages a second: frames, tasks and memory. `--minutes 60` for the heap of an hour.
console-load *args:
    {{python}} -m tests.web.console_load {{args}}

# The longest tasks that the widget adds to a page, by CPU time. Needs Chromium.
widget-load *args:
    {{python}} -m tests.web.widget_load {{args}}

[private]
web-packages:
    cd actorchat/web/src && npm ci --silent --ignore-scripts --no-audit --no-fund

# The whole server from random seeds, with faults: `just simulate --seeds 10000`, `just simulate --minutes 60`.
simulate *args:
    {{python}} -m actorchat.testing.simulation {{args}}

# Several servers on one PostgreSQL database under faults: `just checker --seconds 3600 --pairs`, `--list` names them.
checker *args:
    {{python}} -m tests.system.run_checker {{args}}

# The same with each healing of the servers switched off in turn: the checker has to see it. Some minutes.
checker-planted *args:
    {{python}} -m tests.system.switched_off {{args}}

# `actorchat migrate` with 1,000,000 messages, killed twice on the way; every table of both databases is compared.
migrate-large *args:
    {{python}} -m tests.system.large_migration {{args}}

# The HTTP API from its OpenAPI document: more than 5,000 requests that Schemathesis makes, to a server process.
fuzz *args:
    {{python}} -m tests.http.fuzz {{args}}

# What the speed claims rest on: ratios measured side by side.
bench *args:
    {{python}} -m bench {{args}}

# All of it: what CI runs.
check: lint types docs web-check test
