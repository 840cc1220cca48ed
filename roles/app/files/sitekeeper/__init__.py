"""What Sitekeeper adds to Gunicorn, with nothing changed in the app: see README.md of the role.

Standard library and Gunicorn only, Python 3.10 or newer. ``gunicorn.conf.py`` beside this package puts it to work.

`board` is the memory that master and workers share; `worker` and `guard` run in each worker, `master`, `watchdog` and
`operations` in the master; `verdict` holds every decision, as pure functions.
"""
