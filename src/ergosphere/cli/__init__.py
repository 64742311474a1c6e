"""What people type. Speaks the public HTTP API and nothing else, but for `setup`, `check`, `up` and `verify`."""
