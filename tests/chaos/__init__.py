"""Long trouble for a running `penstock serve`: chaos, an outage, a storm of 429s. `make chaos` runs them at length."""
