"""What a process shares with its machine: files, memory, signals, GPUs and the terminal."""
