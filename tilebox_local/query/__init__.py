"""Reading: one function per question. Uses read-only connections; never writes."""
