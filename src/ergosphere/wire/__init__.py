"""Messages that cross a process boundary."""
