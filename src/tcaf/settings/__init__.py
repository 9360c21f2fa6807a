"""Every setting of a run, its default, its unit and its range; where paper and release part."""
