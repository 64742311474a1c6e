"""Schedulers of others, from their papers, as judges of the same simulator."""
