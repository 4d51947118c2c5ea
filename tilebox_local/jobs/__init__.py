"""Jobs of a client."""
