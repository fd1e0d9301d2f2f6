"""What models there are, and their files."""
