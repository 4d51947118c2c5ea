"""The store: one SQLite file, its connections, its one writer thread per process, and its readers."""
