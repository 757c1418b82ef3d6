"""The rows, a module to a section or two of the contract; `penstock.check.catalogue` has them all in order."""
