"""How costs grow: with processes, sockets, queue and rows; each curve's exponent."""
