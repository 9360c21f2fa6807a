"""The paper's tables: presets, rows, and the runs that they take."""
