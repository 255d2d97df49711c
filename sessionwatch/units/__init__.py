"""Frameworks -> units of work: a request, a task. None of them imports its framework."""
