"""What users call in their own code about plain data: boundaries, and whether a row was stored."""
