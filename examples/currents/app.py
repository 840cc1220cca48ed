"""Currents, a small site of prediction markets. WSGI servers load it as ``app:app``.

``python3 app.py`` starts Flask's development server. That is how this site used to be run by hand; it is fine on
a desk and wrong on a host.
"""

from __future__ import annotations

import os

from currents import create_app

app = create_app()

if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ.get("CURRENTS_PORT", "5555")))
