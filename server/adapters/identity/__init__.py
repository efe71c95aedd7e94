"""Users of the integrator: JWTs, judged by the keys that their issuers publish."""
