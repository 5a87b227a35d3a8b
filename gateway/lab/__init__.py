"""Network namespaces as a laboratory: what the demo, the tests and the benchmarks run in."""
