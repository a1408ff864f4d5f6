"""Adapter to servers with AUTOMATIC1111's API: the web UI itself, Forge, SD.Next."""
