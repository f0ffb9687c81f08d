"""A service over HTTP: OpenAI's image edits, on Ray Serve."""
