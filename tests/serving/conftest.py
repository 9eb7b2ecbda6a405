import tests.helpers.stand_in_vocabulary  # noqa: F401
