"""sitectl: looks after one web application on this host, for cron and for the operator.

Standard library only, Python 3.10 or newer. Each application has one settings file, /etc/sitectl/NAME.json.
"""
