"""Tests of the check of servers."""
