"""The Grafana dashboards, as a program: `python -m tests.deploy.dashboards` writes the JSON of the chart.

JSON is what an operator imports and what the chart installs; these modules only keep forty panels alike.
`grafana` has the words, `service` and `business` say what is shown, `__main__` writes; a test compares.
"""
