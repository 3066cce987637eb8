"""How fast it is, against what people would otherwise use and against the floor: ``make bench``; not in the wheel."""
