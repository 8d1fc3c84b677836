"""The future of a clip: memory that flow carries forward, queries, masks and instance ids."""
