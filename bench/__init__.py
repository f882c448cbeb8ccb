"""What is compared, on what, and how it is stored."""
