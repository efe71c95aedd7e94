"""The push: hands bus messages to followers, and reads the events they missed."""
