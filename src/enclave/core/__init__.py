"""Rules without input or output: total functions over frozen data."""
