"""Lets plain pytest find the plugin in a checkout."""

pytest_plugins = ["svidproof.plugin"]
