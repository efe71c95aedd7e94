"""From the bus to the connections: who follows what, and what they have missed."""
