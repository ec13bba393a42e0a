"""What the paper published, beside records."""
