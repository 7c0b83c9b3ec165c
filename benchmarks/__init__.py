"""What bbio costs beside its peers: `python -m benchmarks --help`."""
