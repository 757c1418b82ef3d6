"""The verbs of the command line, a module each: they read options, call the rooms that do the work, and print."""
