"""The service: HTTP API, control loop, ledger, inbox and courier."""
