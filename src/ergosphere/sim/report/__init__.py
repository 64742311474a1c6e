"""What a run is told as: figures, a table on the terminal, CSV, one HTML page with plots."""
