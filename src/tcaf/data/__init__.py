"""Features of clips: what they mean, where they are kept, how they become batches."""
