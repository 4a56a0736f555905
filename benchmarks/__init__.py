"""What this repository claims about speed, measured: `python -m benchmarks.streaming`."""
