"""What every part of the web needs: credentials, problems, answers."""
