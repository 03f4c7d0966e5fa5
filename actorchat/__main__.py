"""`python -m actorchat`: the command line, wherever the script is not on the path."""

from actorchat.cli import main

if __name__ == "__main__":
    main(prog_name="actorchat")
