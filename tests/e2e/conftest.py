from fixtures import new_run, tiny  # noqa: F401
