"""Whether the tracking server serves: exit code 0 if it answers a query of its own, logged in.

Asking by service name finds what `/health` hides: a name that is not allowed, a database that is
away, a password that is wrong.
"""

from __future__ import annotations

import base64
import sys
import urllib.request
from urllib.error import HTTPError

from mlflow_server.settings import Settings

QUERY = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/search?max_results=1"


def answers(settings: Settings) -> bool:
    """Ask for one experiment as the administrator, under the name that workers use."""
    password = settings.secret("tracking_admin_password")
    account = base64.b64encode(f"admin:{password}".encode()).decode()
    headers = {"Host": "tracking:5000", "Authorization": f"Basic {account}"}
    request = urllib.request.Request(QUERY, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=8) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except HTTPError as error:
        print(f"the server answers {error.code}", file=sys.stderr)  # noqa: T201
    except OSError as error:
        print(f"the server does not answer: {error}", file=sys.stderr)  # noqa: T201
    return False


if __name__ == "__main__":
    sys.exit(0 if answers(Settings.here()) else 1)
