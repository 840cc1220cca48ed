"""Proves a release, switches to it, watches it, and takes it back: runs on the host, also without a controller."""
