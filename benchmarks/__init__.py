"""Benchmarks: the quality beside other libraries, and the seconds of a training."""
