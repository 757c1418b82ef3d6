"""Where keys live: small protocols with one contract suite."""
