"""What every role stands on: settings, stores of files and networks, keys, audit trail, logs, metrics."""
