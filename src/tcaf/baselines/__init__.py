"""The systems that TCaF is compared with, one file each."""
