"""Speed, memory and fit beside peers, on the same data in the same run: `python -m benchmarks.train --help`."""
