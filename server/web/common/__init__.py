"""The parts that all of the web needs: credentials, problems, answers."""
