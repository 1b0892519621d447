"""Programs for those who work on the package; each is called as `python tools/NAME.py`."""
