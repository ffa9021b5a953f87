"""A corpus to vectors: files in, Parquet shards out, by processes of this machine or by Ray; what was killed goes on."""
