"""A disposable Debian or Ubuntu machine in QEMU, for tests: `python -m lab up NAME`. See docs/lab.md."""
