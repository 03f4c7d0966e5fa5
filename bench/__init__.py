"""Benchmarks of actorchat beside other servers and libraries in the same run."""
