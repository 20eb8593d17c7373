"""The command line, `rft`: a module a command."""
