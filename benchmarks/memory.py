"""Memory of this process. Apart from all else, so that asking for it loads nothing that would count."""

from pathlib import Path


def peak_mb() -> float:
    """Largest resident memory of this process so far, MB, libraries included (Linux)."""
    # not getrusage: its figure starts with that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024
