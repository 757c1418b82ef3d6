"""Local models: their files, the child processes that run them, and what keeps those running."""
