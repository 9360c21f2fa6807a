"""Foreign models: where their weights lie, how they are fetched, checked and loaded."""
