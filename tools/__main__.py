"""`make generate`: write every generated file that has changed."""

import shutil
import sys

from tools import chart, dashboards, documentation


def main() -> int:
    if shutil.which("helm") is None:
        print("helm is not in PATH: nothing was written", file=sys.stderr)
        return 1
    for path, text in {**documentation.files(), **dashboards.files(), **chart.files()}.items():
        if path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(path.relative_to(chart.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
