"""Fuzzing by schemathesis: `python -m fuzz`, and the short form that the tests run."""
