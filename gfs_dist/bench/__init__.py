"""The suites of ``gfs benchmark``: what they measure, and what they hold it against."""
