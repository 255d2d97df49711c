"""A small order service with faults, each written the way it gets written. ``# bug:`` marks them."""
