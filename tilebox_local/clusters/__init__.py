"""Clusters of a client."""
