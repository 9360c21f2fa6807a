"""From distances to scores, probabilities and comparisons."""
