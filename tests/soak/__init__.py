"""The long forms of what `make test` proves in short: scale, crashes, outages."""
