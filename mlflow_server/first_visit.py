"""How MLflow's pages open in a browser that has never been here: on runs, with nothing in the way.

MLflow opens in its mode for language models, with an assistant over the page, until the browser
remembers another choice. Nothing on the server can set that: the page is told before it starts, and
what somebody has chosen stays.
"""

from __future__ import annotations

import json
from pathlib import Path

from flask import Flask, Response

_CHOICES = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
}
_SCRIPT = """<script>
for (const [name, value] of Object.entries({choices}))
  if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value));
</script>"""


def open_on_runs(app: Flask) -> None:
    """Serve MLflow's page with these choices for browsers that have made none."""
    page = Path(app.static_folder or "") / "index.html"

    def serve() -> Response:
        return Response(with_choices(page.read_text()), mimetype="text/html")

    app.view_functions["serve"] = serve


def with_choices(page: str) -> str:
    """Return the page with a script before its own."""
    script = _SCRIPT.replace("{choices}", json.dumps(_CHOICES))
    return page.replace("<head>", f"<head>{script}", 1)
