"""Lets plain pytest find the plugin in a checkout, and the selftests run pytest in pytest."""

pytest_plugins = ["svidproof.run.plugin", "pytester"]
