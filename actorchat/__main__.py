"""Runs the command line as `python -m actorchat`."""

from actorchat.cli import main

if __name__ == "__main__":
    main(prog_name="actorchat")
