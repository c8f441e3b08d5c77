"""Tests of what benchmarks are built of."""
