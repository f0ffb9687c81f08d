"""What a GPU would be given, seen without one: inductor's programs for CUDA, and their launches."""
