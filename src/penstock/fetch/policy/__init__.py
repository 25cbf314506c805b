"""What to fetch, when, and again or not: decisions without I/O, the same for every fetcher."""
