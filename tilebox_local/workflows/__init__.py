"""Workflows, their releases and deployments: a hosted feature."""
