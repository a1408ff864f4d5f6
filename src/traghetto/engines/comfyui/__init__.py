"""Adapter to ComfyUI, which runs workflows that its operator has drawn."""
