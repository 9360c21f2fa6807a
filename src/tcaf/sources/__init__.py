"""One reader for each origin of features; all end in a feature store."""
