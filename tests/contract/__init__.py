"""The rows of the contract, asked of a running gateway."""
