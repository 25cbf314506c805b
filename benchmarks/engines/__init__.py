"""What `bench_engines` compares: in each module, what can be made of one list with one system."""
