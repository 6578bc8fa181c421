"""The suites of ``gfs benchmark``: what they search, by which ways, and what that is held against.

Commands and keys are not defined here, and nothing that prunes or trains depends on it.
"""
