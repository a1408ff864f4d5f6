"""The llama.cpp engine: GGUF files run in this process, by the optional extra `llama`."""
