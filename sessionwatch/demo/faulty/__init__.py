"""A small order service with six faults, each written the way it gets written. ``# bug:`` marks them."""
