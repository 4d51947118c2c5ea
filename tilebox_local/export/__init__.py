"""What leaves the store for other tools: rows as CSV and JSON, the documented schema, datasette's metadata."""
