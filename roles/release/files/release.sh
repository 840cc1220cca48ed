#!/bin/sh
# The releases of one site on this host: release NAME list | switch | rollback. See `release --help`.
exec /usr/bin/python3 -I -c '
import sys
sys.path.insert(0, "/usr/local/lib/sitekeeper")
from siterelease.__main__ import main
sys.exit(main(sys.argv[1:]))
' "$@"
