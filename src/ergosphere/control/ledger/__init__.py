"""The ledger: what the service knows, in a database, and the rules by which it changes."""
