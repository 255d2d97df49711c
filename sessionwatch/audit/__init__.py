"""``sessionwatch audit``: what a code base does with sessions, read from its source and never imported.

    files -> trees -> values of expressions -> what each function does with its sessions -> patterns, counts

`source` finds and parses files, `tree` and `body` say what stands where, `infer` says what an expression is (a
session, a sessionmaker, an instance), `use` what a function does with each of its sessions, `patterns` holds one file
per anti-pattern, and `formats` one per output.
"""
