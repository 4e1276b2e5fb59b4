"""`python -m vidgen` is the command `vidgen`."""

import sys

from vidgen.cli.main import main

sys.exit(main())
