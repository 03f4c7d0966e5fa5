"""The load generator: a C program, and the Python module that compiles and drives it."""
