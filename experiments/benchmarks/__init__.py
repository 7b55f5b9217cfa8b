"""Benchmarks: ratios beside what a user would pick instead, both run in turn on one machine."""
