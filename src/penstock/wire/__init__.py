"""The OpenAI schema: what we act on is parsed, unknown fields are carried untouched."""
