"""Jobs, tasks and traces as something to look at: SVG, HTML and terminal text."""
