"""Ergosphere: every job preemptible, movable, resizable and recoverable, bit for bit."""
