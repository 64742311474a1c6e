"""The same loop with the world replaced: clock, nodes, faults, traces, oracles, report."""
