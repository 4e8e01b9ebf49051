"""`python -m tests.deploy.dashboards` writes helm/journey-consumer/dashboards anew."""

from tests.deploy.dashboards.written import FILES

if __name__ == "__main__":
    for path, text in FILES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
