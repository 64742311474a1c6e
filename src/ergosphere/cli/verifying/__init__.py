"""`ergo verify`: one job undisturbed and once more disturbed, in a fleet of its own, compared byte by byte."""
