"""What checks types and shapes at run time in tests: an int is a float, as PEP 484 has it."""

import beartype

checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
