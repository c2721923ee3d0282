"""A package by name: another distribution installs one called `tests`."""
