"""Keeping a store: copy it, make it smaller, check it, and get out of a damaged file what can be read."""
