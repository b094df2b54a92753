"""The contestants of `benchmarks.pretrain`: one process each, started by the runner, ending with one JSON line."""
