"""From the bus to the connections: followers, and the events that they have missed."""
