"""Benchmarks: every figure the project promises, measured beside its rival, with its goal and its bar."""
