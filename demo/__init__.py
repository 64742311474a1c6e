"""`python -m demo`: four unmodified programs are paused, moved, crashed and preempted, and end identical."""
