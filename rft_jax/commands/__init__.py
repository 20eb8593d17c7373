"""The command line, `rft`: a module a command, with its arguments and messages.

Nothing else in the package knows a flag. `entry.main` parses and runs.
"""
