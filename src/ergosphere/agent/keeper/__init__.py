"""The keeper of one cell of one life: launches, holds, lets go, kills and reaps its ranks, and outlives the agent.

Standard library only, nothing of `ergosphere`: it is started as `-m keeper` with the base interpreter, so that nothing
a user may end by name ends it. What it needs to know comes as JSON; paths too.
"""
