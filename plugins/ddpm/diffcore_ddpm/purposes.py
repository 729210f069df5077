"""Random numbers of the losses by purpose."""

INDEX, NOISE, DROP = 1, 2, 3
