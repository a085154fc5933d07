"""The benchmarks of QwQ's announcement and their neighbours, one file each."""
