"""Generators: `make generate` writes the tables of the documentation, the dashboards, and the chart's files.

Each module's `files()` returns what it generates by path; tests compare that with what is kept. Imports the
service's catalogue and settings; nothing of the service imports this.
"""
