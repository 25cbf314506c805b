"""Where lanes run."""
