"""Batches straight into a training loop; `penstock.stream` is the face."""
