"""What sessionwatch costs: instructions, wall time, memory, growth and start-up, beside a bare SQLAlchemy.

``python -m benchmarks --help`` says how to run it; README.md in this folder says what a number means.
"""
