"""Composition: one installation, its dispatch from event to finding, and what suppresses a finding."""
