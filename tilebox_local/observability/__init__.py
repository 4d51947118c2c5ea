"""Tracing and logging, with the official module names."""
