"""What the three papers claim, put to the test: one module per paper."""
