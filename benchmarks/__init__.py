"""What is fast and how it grows, measured on a generated city."""
