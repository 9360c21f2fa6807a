"""A seeded campaign of kills, damage and load; `make campaign` runs it."""
