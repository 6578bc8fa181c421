"""One file a command, each the recipe of its job: what it plans, does, writes and says.

A job is ``run(config, reporter) -> report``. What jobs share is in ``workflows``; configurations
arrive typed and checked, and nothing here composes them or knows Hydra.
"""
