"""The loaders that `bench_stream` compares: in each module, what can be made of one job with one library."""
