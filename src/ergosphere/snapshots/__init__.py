"""What a frozen job is made of: digests, trees of files, manifests, records, and the stores that keep them."""
