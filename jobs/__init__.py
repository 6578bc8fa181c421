"""One file a job; each composes what lies below from one typed configuration.

A job is ``run(config, reporter) -> report``. Hydra and OmegaConf live in this folder only.
"""
