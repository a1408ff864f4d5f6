"""Engines: adapters to model servers, the pool that makes them dependable, and failure kinds."""
