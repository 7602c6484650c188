"""The only thing two rooms have in common: records, bus, store, service frame, module format."""
