"""Print every method and path that the server's own app answers, as JSON; a program of its own.

It runs where the server runs, on an account database of its own.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

SETTINGS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/accounts.db
admin_username = admin
admin_password = only for this list
"""
VALUES = {"artifact_path": "1/0123456789abcdef0123456789abcdef/artifacts/a.txt", "path": "main.js"}


def filled(path: str) -> str:
    """Put a plausible value into each parameter of a route: `<path:name>` or `{name:path}`."""
    names = re.compile(r"<(?:\w+:)?(\w+)>|\{(\w+)(?::\w+)?\}")
    return names.sub(lambda found: VALUES.get(found[1] or found[2], "1"), path)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "accounts.ini"
        file.write_text(SETTINGS.format(folder=folder))
        os.environ.update(
            MLFLOW_AUTH_CONFIG_PATH=str(file),
            MLFLOW_AUTH_ADMIN_PASSWORD="only for this list",
            MLFLOW_FLASK_SERVER_SECRET_KEY="only for this list",
            _MLFLOW_SGI_NAME="uvicorn",
        )
        from mlflow.server import app as pages

        from mlflow_server.app import create_app

        routers = create_app().app.routes  # makes the routes about accounts, too
        found = {
            (method, rule.rule) for rule in pages.url_map.iter_rules() for method in rule.methods
        }
        for router in routers:
            if inner := getattr(router, "original_router", None):
                prefix = router.include_context.prefix
                found |= {(m, prefix + route.path) for route in inner.routes for m in route.methods}
    json.dump(sorted((method, filled(path)) for method, path in found), sys.stdout)


main()
