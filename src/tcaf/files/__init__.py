"""Files: whole or absent when written, read without running anything in them."""
