"""What every other room may use: files, errors, signals, the console."""
