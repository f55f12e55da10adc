"""What is measured: one module each, see `benchmarks.registry`."""
