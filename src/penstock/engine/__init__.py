"""Processes of local models."""
