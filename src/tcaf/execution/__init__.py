"""Where and in how many processes things are computed."""
