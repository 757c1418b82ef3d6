"""A chat completion request: decoded and validated once, for every backend alike."""
