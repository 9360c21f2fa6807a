"""Answers for clips of one's own, from a trained model and any class names."""
