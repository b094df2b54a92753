"""Files -> rows -> prepared shards -> batches."""
