"""The field test: suites of public projects that nobody here wrote, bare and watched."""
