"""What goes wrong on real machines, done on purpose to each step of a small workflow, again and again.

A trial does one thing to one step: kills it, fills its disk, damages a file that it reads. Then no output may be half
of one, the same command run again must end well, and each output must have the bytes that it has where nothing went
wrong. `python -m tests.faults` (or `make faults`) runs many and writes docs/faults.csv; docs/faults.md reads it.
"""
