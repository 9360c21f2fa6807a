"""tcaf: audio-visual zero-shot video classification."""
