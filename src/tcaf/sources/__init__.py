"""One reader per origin of features, each ending in a `FeatureStore`."""
