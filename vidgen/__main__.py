"""`python -m vidgen` is the command `vidgen`."""

import sys

from vidgen.cli import main

sys.exit(main())
