"""What tests share: a running `penstock serve`, and upstreams for it to call."""
