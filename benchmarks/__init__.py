"""dougong beside its peers on the same machine; one module a question, each run as `python -m benchmarks.NAME`."""
