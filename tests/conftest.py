"""Owns how all tests run: hypothesis without a clock, because CI machines share their cores."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "shared machine",
    deadline=None,
    print_blob=True,
    # Drawing the first text builds tables, which is slow once and says nothing of the test.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared machine")
