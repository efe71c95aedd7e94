"""What a processor returns is verified, freed of metadata, and keeps its provenance."""
