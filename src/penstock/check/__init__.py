"""The wire contract as a check that anyone can run against anyone's OpenAI-compatible server.

Rows are data beside small functions; `catalogue` has them all. A row asks through `ask`, which keeps the budget, and
says what came by passing or by raising one of the verdicts of `verdict`; `run` asks one row after another. Nothing
here is shared with the gateway, so that an error of ours cannot hide behind the same error in what looks for it.
"""
