"""The two-stage protocol, and the run that it leaves behind."""
