"""Ergosphere's part inside a rank: holds its collectives at a cut and rebuilds its process groups afterwards.

Standard library only; torch is reached through `sys.modules`, never imported from here first."""
