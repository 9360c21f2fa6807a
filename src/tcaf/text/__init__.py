"""From class names to text embeddings: phrases, sources of vectors, candidate classes."""
