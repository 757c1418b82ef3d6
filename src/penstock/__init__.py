"""Penstock: the OpenAI Chat Completions API from your own machines."""

__version__ = "0.1.0"
