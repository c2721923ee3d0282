"""Benchmarks: whole processes, Python's start included, each beside a peer in the same run. `make bench`."""
