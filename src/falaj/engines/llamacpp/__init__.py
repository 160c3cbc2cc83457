"""Chat models in GGUF files by llama.cpp (xllamacpp), each copy in a worker process with llama.cpp's own server."""
