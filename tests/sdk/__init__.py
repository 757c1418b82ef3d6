"""The official SDKs against a real server."""
